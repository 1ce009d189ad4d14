//! Which numbers a container's user stands for, by the rules of container engines. Takes the texts of the container's
//! own `/etc/passwd` and `/etc/group`; reads no file itself.

use i2kit_spec::ContainerBoot;
use i2kit_spec::runtime::{MAX_ID, User};

use crate::error::Error;
use crate::users;

/// Who the container's process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, sorted.
    pub(crate) groups: Vec<u32>,
    /// The home folder that `/etc/passwd` gives the user.
    pub(crate) home: Option<String>,
}

impl Identity {
    /// Fails when a number is above those of the pod's user namespace.
    pub(crate) fn require_in_namespace(&self) -> Result<(), Error> {
        let mut all = [self.uid, self.gid].into_iter().chain(self.groups.iter().copied());
        all.find(|id| *id > users::LAST)
            .map_or(Ok(()), |id| Err(Error::NoIdInNamespace { id, last: users::LAST }))
    }
}

/// Who a container runs as: its user, with the group that was set apart from it, and unless it must not be root and is.
pub(crate) fn of(boot: &ContainerBoot, config: &User, passwd: &str, group: &str) -> Result<Identity, Error> {
    let mut identity = resolve(&boot.user, config, passwd, group)?;
    identity.gid = boot.run_as_group.unwrap_or(identity.gid);
    let Identity { uid, gid, groups, .. } = &identity;
    // The kernel takes its greatest number for "leave it as it is", which would be root.
    if let Some(id) = [uid, gid].into_iter().chain(groups).find(|id| **id > MAX_ID) {
        return Err(Error::IdRange { id: id.to_string() });
    }
    if boot.run_as_non_root && identity.uid == 0 {
        return Err(Error::Root { user: boot.user.clone() });
    }
    Ok(identity)
}

/// The identity for `user`: empty (then `config` holds the numbers), or `USER[:GROUP]` with names or numbers.
///
/// Digits alone are a number, whatever names there are that look like one. A named group replaces the user's own and leaves out the supplementary ones of `/etc/group`; a number that is in
/// neither file is taken as it is, with group 0. `config`'s additional groups are always added.
fn resolve(user: &str, config: &User, passwd: &str, group: &str) -> Result<Identity, Error> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let numbers = if user.is_empty() { Some(config.uid) } else { number(user)? };
    let entry = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| account.name == user || numbers.is_some_and(|uid| uid == account.uid));
    let uid = match (&entry, numbers) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(Error::NoUser { user: user.to_owned(), file: "/etc/passwd" }),
    };
    let mut groups = config.additional_gids.clone();
    let gid = if let Some(wanted) = wanted_group {
        group_id(wanted, group)?
    } else {
        groups.extend(entry.iter().flat_map(|account| memberships(account.name, group)));
        if user.is_empty() { config.gid } else { entry.as_ref().map_or(0, |account| account.gid) }
    };
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|account| account.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home })
}

/// The number that a text of digits alone means.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::IdRange { id: text.to_owned() })
}

/// One line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

/// Name, number and members of each group.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(wanted: &str, text: &str) -> Result<u32, Error> {
    let named = groups(text).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    named
        .map_or_else(|| number(wanted), |gid| Ok(Some(gid)))?
        .ok_or_else(|| Error::NoUser { user: wanted.to_owned(), file: "/etc/group" })
}

fn memberships(user: &str, text: &str) -> Vec<u32> {
    groups(text)
        .filter(|(_, _, members)| members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::survive;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                          broken line\n\
                          web:x:33:34:Web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:4:syslog,web\nssl:x:110:web\n";

    fn resolved(user: &str) -> (u32, u32, Vec<u32>, Option<String>) {
        let identity = resolve(user, &User { uid: 0, gid: 0, ..User::default() }, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups, identity.home)
    }

    #[test]
    fn names_numbers_and_groups() {
        let home = |path: &str| Some(path.to_owned());
        assert_eq!(resolved(""), (0, 0, vec![], home("/root")));
        assert_eq!(resolved("web"), (33, 34, vec![4, 110], home("/var/www")));
        assert_eq!(resolved("33"), (33, 34, vec![4, 110], home("/var/www")));
        assert_eq!(resolved("web:log"), (33, 4, vec![], home("/var/www")));
        assert_eq!(resolved("1000"), (1000, 0, vec![], None));
        assert_eq!(resolved("1000:2000"), (1000, 2000, vec![], None));
    }

    #[test]
    fn the_configs_numbers_count_without_a_user() {
        let config = User { uid: 33, gid: 7, additional_gids: vec![9, 4], umask: None };
        let identity = resolve("", &config, PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (33, 7, vec![4, 9, 110]));
    }

    #[test]
    fn a_group_of_its_own_leaves_the_other_groups() {
        let boot = |user: &str, run_as_non_root| ContainerBoot {
            user: user.into(),
            run_as_group: Some(99),
            run_as_non_root,
            ..ContainerBoot::default()
        };
        let identity = of(&boot("web", true), &User::default(), PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (33, 99, vec![4, 110]));
        let refused = of(&boot("root", true), &User::default(), PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(refused, "user \"root\" is root, which runAsNonRoot forbids");
        assert_eq!(of(&boot("", false), &User::default(), PASSWD, GROUP).unwrap().uid, 0);
    }

    #[test]
    fn numbers_that_the_kernel_takes_for_another_meaning_are_refused() {
        const PASSWD: &str = "big:x:4294967295:34::/:\nother:x:33:4294967295::/:\nweb:x:33:34::/:\n";
        const GROUP: &str = "huge:x:2147483648:web\nmany:x:4294967295:\n";
        let refused = |user: &str, run_as_group: Option<u32>, config: &User| {
            let boot = ContainerBoot {
                user: user.into(),
                run_as_non_root: true,
                run_as_group,
                ..ContainerBoot::default()
            };
            of(&boot, config, PASSWD, GROUP).unwrap_err().to_string()
        };
        let nobody = User { uid: 1, ..User::default() };
        for user in ["4294967295", "2147483648", "4294967296", "99999999999999999999", "big", "other", "web"]
        {
            let message = refused(user, None, &nobody);
            assert!(message.contains("are from 0 to 2147483647"), "{user}: {message}");
        }
        for user in ["1:4294967295", "1:2147483648", "1:18446744073709551616", "1:many", "1:huge"] {
            let message = refused(user, None, &nobody);
            assert!(message.contains("are from 0 to 2147483647"), "{user}: {message}");
        }
        assert!(refused("1", Some(u32::MAX), &nobody).contains("4294967295"));
        assert!(refused("", None, &User { uid: u32::MAX, ..User::default() }).contains("4294967295"));
        let groups = User { uid: 1, additional_gids: vec![1 << 31], ..User::default() };
        assert!(refused("", None, &groups).contains("2147483648"));
        let last = ContainerBoot { user: "2147483647:2147483647".into(), ..ContainerBoot::default() };
        assert_eq!(of(&last, &nobody, PASSWD, GROUP).unwrap().uid, MAX_ID);
    }

    #[test]
    fn names_that_are_nowhere_are_refused() {
        let config = User::default();
        let message = |user: &str| resolve(user, &config, PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(message("nobody"), "user \"nobody\" is not in the container's /etc/passwd");
        assert_eq!(message("web:wheel"), "user \"wheel\" is not in the container's /etc/group");
    }

    #[test]
    fn whatever_an_image_says_of_users_nobody_becomes_root_by_it() {
        let seed = format!("{PASSWD}\0{GROUP}");
        survive(&[seed.into_bytes()], 4000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let (passwd, group) = text.split_once('\0').unwrap_or((&*text, ""));
            for user in ["", "web", "33", "web:log", "1000:ssl"] {
                let boot =
                    ContainerBoot { user: user.into(), run_as_non_root: true, ..ContainerBoot::default() };
                let Ok(identity) = of(&boot, &User::default(), passwd, group) else { continue };
                let Identity { uid, gid, groups, .. } = identity;
                assert!(uid != 0 && groups.is_sorted());
                assert!([uid, gid].iter().chain(&groups).all(|id| *id <= MAX_ID));
            }
        });
    }
}
