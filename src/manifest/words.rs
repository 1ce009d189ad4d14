//! Words for messages: the nearest to one that is not known, and lists.

/// Words that are compared; nobody reads a list of more.
const MAX_WORDS: usize = 500;

/// The word nearest to `given`, when it is near enough to be a slip.
pub(super) fn nearest<'w>(given: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    // Distance is quadratic; nobody's slip of the finger is this long.
    if given.len() > 100 {
        return None;
    }
    words
        .into_iter()
        .take(MAX_WORDS)
        .filter_map(|word| {
            let allowed = (given.len().max(word.len()) / 3).max(1);
            // What differs more in length alone cannot be near. Bytes for characters: names are ASCII.
            if given.len().abs_diff(word.len()) > allowed {
                return None;
            }
            let same = word.eq_ignore_ascii_case(given);
            let distance = if same { 0 } else { strsim::osa_distance(given, word) };
            (distance <= allowed && distance < word.len()).then_some((distance, word))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// `a`, `b` and `c`
pub(super) fn list(names: &[&str], last: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let words = ["replicas", "selector", "template", "strategy"];
        assert_eq!(nearest("replica", words), Some("replicas"));
        assert_eq!(nearest("Replicas", words), Some("replicas"));
        assert_eq!(nearest("slector", words), Some("selector"));
        assert_eq!(nearest("volumes", words), None);
        assert_eq!(nearest("x", words), None);
    }
}
