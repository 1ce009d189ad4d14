//! The end of VMs whose records are lost: they are never ended unasked, and `i2kit destroy --lost` ends them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::start;
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::process;
use crate::cloud::local::store::{self, Store};
use crate::cloud::local::{lock, lost, mover, proxy};

/// How long a killed VM's process may take to be gone.
const END: Duration = Duration::from_secs(20);

/// Between two looks whether it is.
const POLL: Duration = Duration::from_millis(50);

/// What `destroy --lost` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Names of VMs that ran and were ended.
    pub ended: Vec<String>,
    /// Where the database is kept, when there was one.
    pub aside: Option<PathBuf>,
}

/// Ends the VMs whose records are lost, keeps what there is of their database aside, and removes all else of the local
/// cloud. Refused while the records are sound.
pub async fn destroy_lost(home: &Home) -> Result<Lost, CloudError> {
    if !start::exists(home).await {
        // Without VMs and records there is nothing to carry.
        end_front_door(home).await?;
        return Ok(Lost::default());
    }
    let sound = |what: String| CloudError::InUse {
        what: "the local cloud".to_owned(),
        user: format!("{what}; nothing is lost, and `i2kit destroy --all` ends its VMs"),
    };
    home.create()?;
    let Some(lock) = lock::take(home)? else {
        let who = lock::holder(home).map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        if store::check_version(&home.database()).is_err() {
            return Err(CloudError::InUse {
                what: "the local cloud".to_owned(),
                user: format!(
                    "{who}, which is of a program with another version of the records; destroy the environments with that \
                     program, or end the process with `kill` (its VMs go on) and run this again"
                ),
            });
        }
        return Err(sound(who));
    };
    let database = home.database();
    match Store::open(&database, || lost::nothing(home)) {
        Ok((_, environments)) if !environments.is_empty() => {
            return Err(sound(format!("the environments in {}", database.display())));
        }
        Ok(_) | Err(CloudError::Lost { .. }) => {}
        // It may be sound, and opens once what keeps it from that is mended.
        Err(error) => return Err(error),
    }
    let instances = home.instances();
    let running = process::running(&instances).map_err(CloudError::file("look for VMs of", &instances))?;
    let mut ended = Lost::default();
    let given_up = Instant::now() + END;
    for (id, mut process) in running {
        process.kill();
        while process.is_alive() {
            if Instant::now() > given_up {
                return Err(CloudError::Guest {
                    instance: id,
                    message: format!("its process {} does not end; nothing was removed", process.pid()),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        ended.ended.push(id);
    }
    if fs::metadata(&database).is_ok_and(|metadata| metadata.len() > 0) {
        ended.aside = Some(home.set_aside(&database)?);
    }
    end_front_door(home).await?;
    home.remove()?;
    drop(lock);
    Ok(ended)
}

async fn end_front_door(home: &Home) -> Result<(), CloudError> {
    mover::client::end(home).await.map_err(|message| CloudError::Unreachable { message })?;
    proxy::handle::end(home).await.map_err(CloudError::file("end the HTTP proxy of", &home.state))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use i2kit_spec::Bytes;

    use super::*;
    use crate::cloud::Scope;
    use crate::cloud::local::home;
    use crate::cloud::local::keeper::{Keeper, adopt};
    use crate::cloud::local::volumes;
    use crate::manifest::api::Name;
    use crate::plan::fleet::DiskSpec;
    use crate::plan::rollout;

    /// A process that looks like a VM: the arguments after the script are its own.
    fn machine(home: &Home, id: &str) -> Child {
        let folder = home.instance(id);
        fs::create_dir_all(&folder).unwrap();
        let child = Command::new("sh")
            .args(["-c", "read line", "-name", &format!("guest={id}")])
            .stdin(Stdio::piped())
            .current_dir(&folder)
            .spawn()
            .unwrap();
        while !process::running(&home.instances()).unwrap().iter().any(|(found, _)| found == id) {
            std::thread::yield_now();
        }
        child
    }

    fn home_in(root: &tempfile::TempDir) -> Home {
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        home
    }

    /// What it is called, what it does to the file, whether a part of it is left.
    type Loss = (&'static str, fn(&std::path::Path), bool);

    /// The ways in which a database is lost, each made from a sound one, and whether a part of it is left to be kept.
    fn losses() -> [Loss; 6] {
        [
            (
                "without rows",
                |path| {
                    fs::remove_file(path).unwrap();
                    drop(Store::open(path, || Ok(())).unwrap());
                },
                true,
            ),
            ("missing", |path| fs::remove_file(path).unwrap(), false),
            ("empty", |path| fs::write(path, "").unwrap(), false),
            ("cut", |path| fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap(), true),
            ("garbled", |path| fs::write(path, vec![b'x'; 100_000]).unwrap(), true),
            (
                "flipped",
                |path| {
                    let mut bytes = fs::read(path).unwrap();
                    // Everywhere: a page may hold what a row was before it was moved.
                    while let Some(at) = bytes.windows(5).position(|window| window == b"web-1") {
                        bytes[at] ^= 1;
                    }
                    fs::write(path, bytes).unwrap();
                },
                true,
            ),
        ]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_database_ends_no_vm_unasked_and_names_the_way_out() {
        for (name, lose, kept) in losses() {
            let root = tempfile::tempdir().unwrap();
            let home = home_in(&root);
            let mut child = machine(&home, "web-1-a");
            let (mut store, _) = Store::open(&home.database(), || Ok(())).unwrap();
            store.save(&crate::cloud::local::store::sample()).unwrap();
            drop(store);
            assert!(Store::open(&home.database(), || lost::nothing(&home)).is_ok());
            lose(&home.database());

            assert!(start::exists(&home).await, "{name}: `status` would say that there is nothing");
            let error = Keeper::open(home.clone()).unwrap_err().to_string();
            assert!(error.contains(&home.database().display().to_string()), "{name}: {error}");
            assert!(error.contains(home::DESTROY_LOST), "{name}: {error}");
            assert!(child.try_wait().unwrap().is_none(), "{name}: the VM was ended");
            assert!(home.instance("web-1-a").exists(), "{name}: the VM's folder is gone");

            let lost = tokio::spawn({
                let home = home.clone();
                async move { destroy_lost(&home).await }
            });
            // The VM is a child of this process: nobody else waits for it. Waiting would close what it reads.
            let input = child.stdin.take();
            child.wait().unwrap();
            drop(input);
            let lost = lost.await.unwrap().unwrap();
            assert_eq!(lost.ended, ["web-1-a"], "{name}");
            assert_eq!(lost.aside.is_some_and(|path| path.exists()), kept, "{name}");
            assert!(!home.state.exists(), "{name}");
            assert!(!start::exists(&home).await, "{name}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn disks_of_a_lost_database_are_found_and_stay_until_somebody_names_them() {
        let root = tempfile::tempdir().unwrap();
        let home = home_in(&root);
        let disk = Name { namespace: "default".into(), name: "data-db-0".into() };
        let path = volumes::path(&home, "local", &disk);
        fs::create_dir_all(path.with_extension("snapshots")).unwrap();
        fs::write(path.with_extension("snapshots").join("before.raw"), "then").unwrap();
        fs::write(path.with_extension("raw.new"), "half").unwrap();
        fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
        destroy_lost(&home).await.unwrap();
        assert!(start::exists(&home).await, "`volume ls` would say that there is none");

        home.create().unwrap();
        let keeper = std::sync::Arc::new(Keeper::open(home.clone()).unwrap());
        adopt(&keeper).unwrap();
        let fleet = keeper.fleet("local", &Scope::Environment);
        let [found] = &fleet.disks[..] else { panic!("{:?}", fleet.disks) };
        assert!(found.spec.name == disk && found.spec.is_found() && found.snapshots[0].name == "before");
        assert!(!path.with_extension("raw.new").exists());
        // `destroy --volumes` keeps it, and a deployment says what it is: its own size is no shorter one.
        let plan = rollout::destroy(&fleet, true);
        assert!(plan.is_empty() && plan.notes[0].contains("nothing is known"), "{plan}");
        let claim = DiskSpec { size: Bytes(1), retain: false, ..found.spec.clone() };
        assert_eq!(rollout::refusal(&claim, &found.spec), None);
        assert!(rollout::remove_disks(&fleet, &[disk]).is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn vms_of_a_removed_folder_are_found_and_sound_records_are_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let home = home_in(&root);
        let (mut store, _) = Store::open(&home.database(), || Ok(())).unwrap();
        store.save(&crate::cloud::local::store::sample()).unwrap();
        drop(store);
        let error = destroy_lost(&home).await.unwrap_err().to_string();
        assert!(error.contains("destroy --all"), "{error}");

        let mut child = machine(&home, "web-1-b");
        fs::remove_dir_all(&home.state).unwrap();
        assert!(start::exists(&home).await);
        home.create().unwrap();
        let error = Keeper::open(home.clone()).unwrap_err().to_string();
        assert!(error.contains("web-1-b") && error.contains(home::DESTROY_LOST), "{error}");
        assert!(child.try_wait().unwrap().is_none());
        let ended = tokio::spawn({
            let home = home.clone();
            async move { destroy_lost(&home).await }
        });
        let input = child.stdin.take();
        child.wait().unwrap();
        drop(input);
        assert_eq!(ended.await.unwrap().unwrap().ended, ["web-1-b"]);
    }
}
