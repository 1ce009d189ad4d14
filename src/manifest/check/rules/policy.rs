//! Network policies: what their peers and ports must have.

use crate::manifest::check::report::Check;
use crate::manifest::check::text::{is_cidr, is_part_of_cidr};
use crate::manifest::code::Code;
use crate::manifest::tree::Node;

/// What a peer must be.
pub(super) fn policy_peer(check: &mut Check<'_>, peer: &Node<'_>) {
    is_something(check, peer);
    if let Some(block) = peer.get("ipBlock") {
        check.key("ipBlock", |check| exceptions(check, block));
    }
}

/// Exceptions of a range are smaller ranges in it: one that is elsewhere, of the other family among them, would keep nobody out. Source:
/// Kubernetes' validation of network policies.
fn exceptions(check: &mut Check<'_>, block: &Node<'_>) {
    let Some(whole) = block.str("cidr").filter(|text| is_cidr(text)) else { return };
    let items = block.get("except").map_or(&[][..], Node::items);
    check.key("except", |check| {
        for (index, item) in items.iter().enumerate() {
            let Some(part) = item.scalar().filter(|text| is_cidr(text) && !is_part_of_cidr(text, whole))
            else {
                continue;
            };
            let message = format!("`{part}` is no smaller range in `{whole}`");
            check.index(index, |check| {
                check
                    .report(Code::InvalidValue, item.span, message)
                    .help("write ranges of the same family that lie within `cidr`");
            });
        }
    });
}

/// A peer is something: one that is nothing would be everybody to some readers and nobody to others.
fn is_something(check: &mut Check<'_>, peer: &Node<'_>) {
    if ["podSelector", "namespaceSelector", "ipBlock"].iter().all(|field| peer.get(field).is_none()) {
        check
            .report(Code::MissingField, peer.span, "a peer needs podSelector, namespaceSelector or ipBlock")
            .help("write `podSelector: {}` for all pods of the namespace, or leave out the list of peers for everybody");
    }
}

/// A range begins with a number, and does not end before it.
pub(super) fn policy_port(check: &mut Check<'_>, port: &Node<'_>) {
    let Some(end) = port.get("endPort") else { return };
    let number = |node: &Node<'_>| node.scalar().and_then(|text| text.parse::<u16>().ok());
    let first = port.get("port").and_then(number);
    if first.is_none() || number(end) < first {
        check.key("endPort", |check| {
            check
                .report(
                    Code::InvalidValue,
                    end.span,
                    "`endPort` needs a `port` by number that is not above it",
                )
                .help("write the first port of the range as `port`");
        });
    }
}
