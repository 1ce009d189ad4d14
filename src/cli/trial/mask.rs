//! What a report leaves out: whose account it is, who works with it, and keys.

use crate::cloud::trial::HIDDEN;

/// Longer words are no names: what an account says of a refusal may hold all of the call in one.
const LONGEST_WORD: usize = 200;

/// Characters that stand encoded in addresses and in messages that quote such.
const ENCODED: [(&str, &str); 7] =
    [("%3A", ":"), ("%3a", ":"), ("%2F", "/"), ("%2f", "/"), ("%2C", ","), ("%2c", ","), ("%40", "@")];

/// What may stand in front of a path.
const OPENING: [char; 6] = ['"', '\'', '`', '(', '[', '<'];

/// Leaves out what strangers are not to read.
#[derive(Debug)]
pub(super) struct Mask {
    /// The home folder and names of the user and of this computer, the longest first.
    personal: Vec<String>,
    /// What leaves out of a word what the cloud's accounts have in it.
    of_cloud: fn(&str) -> String,
}

impl Mask {
    /// A mask for those words, and for what the cloud's mask and this one know by its form.
    pub(super) fn new(personal: Vec<String>, of_cloud: fn(&str) -> String) -> Self {
        Self { personal, of_cloud }
    }

    /// The text without what tells whose account it is or who works here, and without keys.
    pub(super) fn text(&self, text: &str) -> String {
        let decoded = ENCODED.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain));
        let without = self.personal.iter().fold(decoded, |text, word| without_word(&text, word));
        without.split_inclusive(char::is_whitespace).map(|word| self.word(word)).collect()
    }

    /// A word, with the space behind it.
    fn word(&self, word: &str) -> String {
        let bare = word.trim_end();
        let space = &word[bare.len()..];
        if bare.len() > LONGEST_WORD {
            return format!("(left out){space}");
        }
        (self.of_cloud)(&without_mail(&without_folders(bare))) + space
    }
}

/// The text without a word, where that is no part of a longer one.
fn without_word(text: &str, word: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut without = String::new();
    let mut from = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        if !is_part(text[..at].chars().next_back()) && !is_part(text[end..].chars().next()) {
            without += &text[from..at];
            without += HIDDEN;
            from = end;
        }
    }
    without + &text[from..]
}

/// A path without its folders.
fn without_folders(word: &str) -> String {
    let path = word.trim_start_matches(OPENING);
    let opening = &word[..word.len() - path.len()];
    let is_path = path.starts_with('/') || path.starts_with("***/");
    match path.rfind('/') {
        Some(last) if is_path && last > 0 => format!("{opening}…{}", &path[last..]),
        _ => word.to_owned(),
    }
}

/// A word without addresses of mail.
fn without_mail(word: &str) -> String {
    let is_of_mail = |c: char| c.is_alphanumeric() || "._%+-".contains(c);
    let mut masked = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('@') {
        let person = before.trim_end_matches(is_of_mail);
        let beyond = after.trim_start_matches(is_of_mail);
        let host = &after[..after.len() - beyond.len()];
        if person.len() < before.len() && host.contains('.') {
            masked += person;
            masked += HIDDEN;
            // What ends a sentence is of no name.
            rest = &after[host.trim_end_matches('.').len()..];
        } else {
            masked += before;
            masked.push('@');
            rest = after;
        }
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(personal: &[&str]) -> Mask {
        Mask::new(personal.iter().map(ToString::to_string).collect(), |word| {
            word.replace(":user/ann", ":user/***")
        })
    }

    #[track_caller]
    fn masks(said: &str, told: &str) {
        assert_eq!(mask(&[]).text(said), told);
    }

    #[test]
    fn what_the_cloud_s_mask_leaves_out_is_in_no_report() {
        masks("arn:aws:iam::1:user/ann, who\nis known", "arn:aws:iam::1:user/***, who\nis known");
        masks("arn%3Aaws%3Aiam%3A%3A1%3Auser%2Fann", "arn:aws:iam::1:user/***");
        masks(&format!("message: {} end", "x".repeat(300)), "message: (left out) end");
    }

    #[test]
    fn addresses_of_mail_are_in_no_report() {
        masks("mail ann.o@corp.example.org.", "mail ***.");
        masks("mail%20 ben%40corp.org, ann", "mail%20 ***, ann");
    }

    #[test]
    fn who_works_here_is_in_no_report() {
        let mask = mask(&["ann-build-3-77", "/home/ann", "build-3", "ann"]);
        for (said, told) in [
            ("cannot read /home/ann/clients/acme.yml: gone", "cannot read …/acme.yml: gone"),
            ("/home/ann is full; build-3 and ann-build-3-77 know", "*** is full; *** and *** know"),
            ("the channel and Ann stay, ann's is left out", "the channel and Ann stay, ***'s is left out"),
        ] {
            assert_eq!(mask.text(said), told);
        }
        masks("\"/srv/clients/acme/bzImage\", whole", "\"…/bzImage\", whole");
    }

    #[test]
    fn names_of_things_and_times_stay() {
        for plain in ["took 12.5 s and/or 5/6", "busybox:1.35@sha256:0123", "is /s"] {
            masks(plain, plain);
        }
    }
}
