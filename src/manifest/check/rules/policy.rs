//! Network policies: what their peers and ports must have.

use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::tree::Node;

/// A peer is something: one that is nothing would be everybody to some readers and nobody to others.
pub(super) fn policy_peer(check: &mut Check<'_>, peer: &Node<'_>) {
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
