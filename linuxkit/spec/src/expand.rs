//! Expansion of `$(VAR)` in commands, arguments, environment values and paths: the one rule that both sides apply, the
//! host to what it knows and the guest to what is known at boot alone.
//!
//! The rule is Kubernetes': a reference to an unknown variable stays as it is written, `$$` is a literal dollar sign,
//! and only variables of the manifest are known, not those of the image.
//! Source: `env`, `command` and `args` of Container in the Kubernetes API reference.

use std::collections::BTreeMap;

/// `text` with each `$(NAME)` replaced by the variable's value.
#[must_use]
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // What has no end once has none further on: it is looked for once, not for each beginning.
    let mut ends = true;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let inner = after.strip_prefix('(').filter(|_| ends);
        let Some((name, tail)) = inner.and_then(|inner| inner.split_once(')')) else {
            ends &= inner.is_none();
            out.push('$');
            rest = after;
            continue;
        };
        if let Some(value) = variables.get(name) {
            out.push_str(value);
        } else {
            out.push_str("$(");
            out.push_str(name);
            out.push(')');
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_rules_hold() {
        let variables: BTreeMap<_, _> =
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())].into();
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)z", "x1y1z"),
            ("$(B)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$ $(A $$ $(", "$ $(A $ $("),
            ("größe $(A) €", "größe 1 €"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
