//! What a report leaves out: whose account it is, who works with it, and keys.

/// What stands for what is left out.
const HIDDEN: &str = "***";

/// Longer words are no names: what an account says of a refusal may hold all of the call in one.
const LONGEST_WORD: usize = 200;

/// Digits of an account's number.
const ACCOUNT: usize = 12;

/// The fewest characters of an id of a key, a user or a role, and what such begin with.
const KEY: usize = 16;
const KEYS: [&str; 12] =
    ["AKIA", "ASIA", "AROA", "AIDA", "AGPA", "AIPA", "ANPA", "ANVA", "APKA", "ASCA", "ABIA", "ACCA"];

/// What stands in front of the name of a user, a role or a policy.
const PEOPLE: [&str; 11] = [
    ":user/",
    ":assumed-role/",
    ":federated-user/",
    ":role/",
    ":policy/",
    ":group/",
    ":instance-profile/",
    ":mfa/",
    ":server-certificate/",
    ":saml-provider/",
    ":oidc-provider/",
];

/// Characters that stand encoded in addresses and in messages that quote such.
const ENCODED: [(&str, &str); 7] =
    [("%3A", ":"), ("%3a", ":"), ("%2F", "/"), ("%2f", "/"), ("%2C", ","), ("%2c", ","), ("%40", "@")];

/// What stands around the name of who was faster than a plan.
const FASTER: (&str, &str) = (" since this was planned: ", " did \"");

/// What may stand in front of a path.
const OPENING: [char; 6] = ['"', '\'', '`', '(', '[', '<'];

/// Leaves out what strangers are not to read.
#[derive(Debug, Default)]
pub(super) struct Mask {
    /// The home folder and names of the user and of this computer, the longest first.
    personal: Vec<String>,
}

impl Mask {
    /// A mask for those words beside what it knows by its form.
    pub(super) fn new(personal: Vec<String>) -> Self {
        Self { personal }
    }

    /// The text without what tells whose account it is or who works here, and without keys.
    pub(super) fn text(&self, text: &str) -> String {
        let decoded = ENCODED.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain));
        let without = self.personal.iter().fold(decoded, |text, word| without_word(&text, word));
        without_faster(&without).split_inclusive(char::is_whitespace).map(masked_word).collect()
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

/// The text without who was faster than a plan: user, computer and process.
fn without_faster(text: &str) -> String {
    let Some((before, rest)) = text.split_once(FASTER.0) else { return text.to_owned() };
    match rest.find(FASTER.1) {
        Some(end) => format!("{before}{}{HIDDEN}{}", FASTER.0, &rest[end..]),
        None => text.to_owned(),
    }
}

fn masked_word(word: &str) -> String {
    let bare = word.trim_end();
    let space = &word[bare.len()..];
    if bare.len() > LONGEST_WORD {
        return format!("(left out){space}");
    }
    without_ids(&without_mail(&without_people(&without_folders(bare)))) + space
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

/// The length of the name that a text begins with; what ends a sentence is of no name.
fn name_length(text: &str) -> usize {
    let is_of_name = |c: char| c.is_alphanumeric() || "/_+=.@*,-".contains(c);
    let end = text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', ',']).len()
}

/// A word without names of users, roles and policies, however many it has.
fn without_people(word: &str) -> String {
    let mut masked = word.to_owned();
    for mark in PEOPLE {
        let mut from = 0;
        while let Some(at) = masked[from..].find(mark) {
            let start = from + at + mark.len();
            let length = name_length(&masked[start..]);
            masked.replace_range(start..start + length, HIDDEN);
            from = start + HIDDEN.len();
        }
    }
    masked
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

/// A word without numbers of accounts and without ids of keys, of users and of roles with the session behind.
fn without_ids(word: &str) -> String {
    let mut masked = String::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if length == 0 {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (run, after) = rest.split_at(length);
        rest = after;
        if !is_key(run) {
            masked += &without_account(run);
            continue;
        }
        masked += HIDDEN;
        if let Some(session) = rest.strip_prefix(':') {
            let name = name_length(session);
            if name > 0 {
                masked.push(':');
                masked += HIDDEN;
                rest = &session[name..];
            }
        }
    }
    masked
}

/// Whether letters and digits are the id of a key, a user or a role.
fn is_key(run: &str) -> bool {
    run.len() >= KEY
        && KEYS.iter().any(|start| run.starts_with(start))
        && run.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// Letters and digits without an account's number, unless the digits are a part of a longer hexadecimal id.
fn without_account(run: &str) -> String {
    if run.len() > ACCOUNT && run.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return run.to_owned();
    }
    let mut masked = String::new();
    let mut rest = run;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (letters, after) =
            after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        masked += if number.len() == ACCOUNT { HIDDEN } else { number };
        masked += letters;
        rest = after;
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn masks(said: &str, told: &str) {
        assert_eq!(Mask::default().text(said), told);
    }

    #[test]
    fn whose_account_it_is_is_in_no_report() {
        masks(
            "ok      credentials: arn:aws:iam::123456789012:user/ann@example.org in us-east-1",
            "ok      credentials: arn:aws:iam::***:user/*** in us-east-1",
        );
        masks("aws123456789012role and 123456789012_x", "aws***role and ***_x");
        masks(
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1",
            "***.dkr.ecr.us-east-1.amazonaws.com/app:1",
        );
        masks(&format!("message: {} end", "x".repeat(300)), "message: (left out) end");
    }

    #[test]
    fn names_of_users_roles_and_policies_are_in_no_report() {
        masks(
            "arn:aws:sts::123456789012:assumed-role/deployer/ann.o, who\nis known",
            "arn:aws:sts::***:assumed-role/***, who\nis known",
        );
        masks(
            "arn:aws:iam::1:role/team/x arn:aws:sts::1:federated-user/ann,o.",
            "arn:aws:iam::1:role/*** arn:aws:sts::1:federated-user/***.",
        );
        masks("(arn:aws:iam::aws:policy/Acme)", "(arn:aws:iam::aws:policy/***)");
        masks(
            "[arn:aws:iam::1:user/ann;arn:aws:iam::1:user/ben]",
            "[arn:aws:iam::1:user/***;arn:aws:iam::1:user/***]",
        );
        masks("arn%3Aaws%3Aiam%3A%3A123456789012%3Auser%2Fann", "arn:aws:iam::***:user/***");
        masks("mail ann.o@corp.example.org.", "mail ***.");
    }

    #[test]
    fn ids_of_keys_users_and_roles_are_in_no_report() {
        masks("key AKIAABCDEFGHIJKLMNOP.", "key ***.");
        masks("AROAABCDEFGHIJKLMNOPQ:ann@corp.org is", "***:*** is");
        masks("AROAABCDEFGHIJKLMNOPQ:ann, AIDAABCDEFGHIJKLMNOPQ: denied", "***:***, ***: denied");
    }

    #[test]
    fn who_works_here_is_in_no_report() {
        let words = ["ann-build-3-77", "/home/ann", "build-3", "ann"];
        let mask = Mask::new(words.map(str::to_owned).to_vec());
        for (said, told) in [
            ("cannot read /home/ann/clients/acme.yml: gone", "cannot read …/acme.yml: gone"),
            ("/home/ann is full; build-3 and ann-build-3-77 know", "*** is full; *** and *** know"),
            ("the channel and Ann stay, ann's is left out", "the channel and Ann stay, ***'s is left out"),
        ] {
            assert_eq!(mask.text(said), told);
        }
        masks("\"/srv/clients/acme/bzImage\", whole", "\"…/bzImage\", whole");
        masks(
            "the environment was changed since this was planned: ben-laptop-9 did \"delete web\"",
            "the environment was changed since this was planned: *** did \"delete web\"",
        );
    }

    #[test]
    fn names_of_things_and_times_stay() {
        for plain in [
            "i-0123456789ab",
            "snap-0123456789abcdef0",
            "1234567890123",
            "0a123456789012bc",
            "took 12.5 s and/or 5/6",
            "busybox:1.35@sha256:0123",
            "AKIAshort /s",
        ] {
            masks(plain, plain);
        }
    }
}
