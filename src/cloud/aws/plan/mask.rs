//! What a trial's report leaves out of an account's names: whose account it is, who works with it, and ids of keys.

use crate::cloud::trial::HIDDEN;

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

/// A text without an account's number, without names of users, roles and policies, and without ids of keys.
pub fn masked(text: &str) -> String {
    without_ids(&without_people(text))
}

/// The length of the name that a text begins with, or of what stands for it already; what ends a sentence is of no name.
fn name_length(text: &str) -> usize {
    let is_of_name = |c: char| c.is_alphanumeric() || "/_+=.@*,-".contains(c);
    let end = text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', ',']).len()
}

/// A text without names of users, roles and policies, however many it has.
fn without_people(text: &str) -> String {
    let mut masked = text.to_owned();
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

/// A text without numbers of accounts and without ids of keys, of users and of roles with the session behind.
fn without_ids(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
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
        assert_eq!(masked(said), told);
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
        // What stands for an address of mail is a part of the name.
        masks(
            "arn:aws:sts::1:assumed-role/x/*** arn:aws:iam::1:user/ann,***",
            "arn:aws:sts::1:assumed-role/*** arn:aws:iam::1:user/***",
        );
    }

    #[test]
    fn ids_of_keys_users_and_roles_are_in_no_report() {
        masks("key AKIAABCDEFGHIJKLMNOP.", "key ***.");
        masks("AROAABCDEFGHIJKLMNOPQ:ann@corp.org is", "***:*** is");
        masks("AROAABCDEFGHIJKLMNOPQ:*** is", "***:*** is");
        masks("AROAABCDEFGHIJKLMNOPQ:ann, AIDAABCDEFGHIJKLMNOPQ: denied", "***:***, ***: denied");
    }

    #[test]
    fn names_of_things_stay() {
        for plain in [
            "i-0123456789ab",
            "snap-0123456789abcdef0",
            "1234567890123",
            "0a123456789012bc",
            "busybox:1.35@sha256:0123",
            "AKIAshort /s",
        ] {
            masks(plain, plain);
        }
    }
}
