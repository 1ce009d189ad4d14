//! What the database keeps, refuses and survives.

use i2kit_spec::Seconds;

use super::*;
use crate::cloud::engine::moment::{Moment, PAUSE_MS};
use crate::cloud::engine::reconcile::GroupMemory;
use crate::manifest::api::{IntOrPercent, Protocol, ServiceType, Strategy};
use crate::oci::Digest;
use crate::plan::act::{Act, NewRevision, PlannedAct};
use crate::plan::example;
use crate::plan::fleet::{
    Accelerator, BalancerSpec, ContainerState, GroupSettings, Health, LaunchPort, LaunchSpec, Listener,
    Requests, TargetGroup,
};
use crate::plan::image::ImageId;

fn moment(steady: u64) -> Moment {
    Moment { steady, wall: 1_700_000_000_000 + steady }
}

fn apply(environment: &mut Environment, act: Act, now: Moment) {
    let planned = PlannedAct { act, generation: environment.generation(), by: "ana".into() };
    environment.apply(&planned, now, || "127.77.0.1".into()).unwrap();
}

pub(super) fn environments() -> Environments {
    let name = Name { namespace: "default".into(), name: "web".into() };
    let mut environment = Environment::default();
    apply(&mut environment, Act::PutImage { image: ImageId(Digest::of(b"1")) }, moment(0));
    let settings = GroupSettings {
        min_ready_seconds: Seconds(1),
        progress_deadline_seconds: Seconds(2),
        revision_history_limit: 3,
        labels: BTreeMap::from([("app".into(), "web".into())]),
        ..example::settings(Strategy::Recreate)
    };
    apply(&mut environment, Act::PutGroup { group: name.clone(), settings }, moment(1));
    let group = environment.groups.get_mut(&name).unwrap();
    group.memory = GroupMemory { failures: 7, ..GroupMemory::default() };
    group.instances.insert("web-1-a".into(), InstanceRecord::new("web-1-a".into(), 1, moment(5)));
    group.instances.insert("web-1-b".into(), InstanceRecord::new("web-1-b".into(), 1, moment(6)));
    Environments::from([("local".to_owned(), environment)])
}

#[test]
fn what_was_saved_is_loaded_and_what_went_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    let mut state = environments();
    let (mut store, empty) = Store::open(&path, || Ok(())).unwrap();
    assert!(empty.is_empty());
    store.save(&state).unwrap();
    drop(store);

    let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
    assert_eq!(loaded, state);
    state.values_mut().flat_map(|e| e.groups.values_mut()).for_each(|group| {
        group.instances.remove("web-1-a");
        group.replicas = 9;
    });
    store.save(&state).unwrap();
    drop(store);
    assert_eq!(Store::open(&path, || Ok(())).unwrap().1, state);
}

#[test]
fn nobody_else_has_a_lock_on_an_open_database_and_its_version_is_known_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    check_version(&path).unwrap();
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    let reader = Connection::open(&path).unwrap();
    reader.busy_timeout(Duration::ZERO).unwrap();
    let read = reader.query_row("SELECT count(*) FROM objects", [], |row| row.get::<_, i64>(0));
    assert_eq!(read.unwrap_err().sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    store.save(&environments()).unwrap();
    check_version(&path).unwrap();
    drop(store);
    reader.execute_batch("PRAGMA user_version = 99").unwrap();
    let error = check_version(&path).unwrap_err().to_string();
    assert!(error.contains("version 99") && error.contains("destroy"), "{error}");
}

/// The documents' form belongs to [`SCHEMA_VERSION`]: when this golden changes, so must the version, or a newer
/// program would take the VMs of an older one for unreadable.
#[test]
fn the_documents_are_of_this_version() {
    let mut state = environments();
    let environment = state.get_mut("local").unwrap();
    let name = Name { namespace: "default".into(), name: "web".into() };
    let launch = LaunchSpec {
        ports: vec![LaunchPort { port: 80, protocol: Protocol::Tcp }],
        requests: [("web".to_owned(), Requests { cpu_millis: Some(250), memory_bytes: Some(1 << 20) })]
            .into(),
        ..example::launch(ImageId(Digest::of(b"1")))
    };
    let revision = NewRevision { number: 1, launch, cause: "deploy".into() };
    apply(environment, Act::PutRevision { group: name.clone(), revision }, moment(1000));
    let start = Act::StartRefresh { group: name.clone(), to: 1, replicas: 2 };
    apply(environment, start, moment(2000));
    let max_unavailable = IntOrPercent::Percent(25);
    environment.groups.get_mut(&name).unwrap().settings.strategy =
        Strategy::RollingUpdate { max_unavailable, max_surge: IntOrPercent::Int(1) };
    let record = environment.groups.get_mut(&name).unwrap().instances.get_mut("web-1-a").unwrap();
    record.set_health(Health::Unhealthy { reason: "late".into() }, 7);
    record.silent_since = Some(6);
    record.accelerator = Some(Accelerator::Tcg);
    record.containers.push(ContainerState {
        name: "web".into(),
        ready: true,
        restarts: 1,
        state: "running".into(),
    });
    let target = TargetGroup { group: name.clone(), port: 80 };
    let listener = Listener::new(8080, Protocol::Udp, vec![target]);
    let spec = BalancerSpec::new(name, ServiceType::ClusterIP, vec![listener]);
    apply(environment, Act::PutBalancer { spec }, moment(3000));
    let documents: Vec<String> = documents(&state)
        .into_iter()
        .map(|((kind, environment, namespace, name, id), document)| {
            let document: serde_json::Value = serde_json::from_str(&document).unwrap();
            format!("{kind} {environment} {namespace} {name} {id}\n{document:#}")
        })
        .collect();
    insta::assert_snapshot!("documents_of_version_7", documents.join("\n"));
}

#[test]
fn the_clock_is_stored_with_what_it_timed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    let now = store.clock().tick().steady;
    store.save(&environments()).unwrap();
    drop(store);
    // The host was started again since, long after.
    let later = r#"{"bootId":"before","boottimeMs":77,"steadyMs":4000000}"#;
    let connection = Connection::open(&path).unwrap();
    let stored: String = connection.query_row("SELECT document FROM clock", [], |row| row.get(0)).unwrap();
    assert!(serde_json::from_str::<Steady>(&stored).unwrap().at(0) >= now);
    connection.execute("UPDATE clock SET document = ?1", [later]).unwrap();
    drop(connection);
    let shown = Store::open(&path, || Ok(())).unwrap().0.clock().now().steady;
    assert!((4_000_000..=4_000_000 + PAUSE_MS).contains(&shown), "{shown}");
}

/// One VM more in each group.
fn grown(state: &Environments, id: &str) -> Environments {
    let mut state = state.clone();
    for group in state.values_mut().flat_map(|environment| environment.groups.values_mut()) {
        group.instances.insert(id.into(), InstanceRecord::new(id.into(), 1, moment(7)));
    }
    state
}

#[test]
fn a_save_needs_no_new_pages_and_one_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    let mut state = environments();
    store.save(&state).unwrap();
    let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
    let mut saved = 0;
    let error = loop {
        let next = grown(&state, &format!("web-1-{saved}"));
        match store.save(&next) {
            Ok(()) => (state, saved) = (next, saved + 1),
            Err(error) => break error.to_string(),
        }
    };
    assert!(saved > 200, "room for {saved} VMs");
    assert!(
        error.contains("bytes are free") && error.contains(&folder.path().display().to_string()),
        "{error}"
    );
    // What was refused is not there, neither now nor after the next save.
    store.save(&Environments::new()).unwrap();
    drop(store);
    assert!(Store::open(&path, || Ok(())).unwrap().1.is_empty());
}

#[test]
fn a_database_that_was_removed_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    let state = environments();
    store.save(&state).unwrap();
    assert!(!store.is_lost());
    std::fs::remove_file(&path).unwrap();
    assert!(store.is_lost());
    store.restore(&state).unwrap();
    assert!(!store.is_lost());
    store.save(&grown(&state, "web-1-z")).unwrap();
    drop(store);
    assert_eq!(Store::open(&path, || Ok(())).unwrap().1, grown(&state, "web-1-z"));
}

#[test]
fn a_row_that_was_changed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    store.save(&environments()).unwrap();
    for change in [
        "UPDATE objects SET document = replace(document, '7', '8') WHERE kind = 'group'",
        "UPDATE objects SET id = 'web-1-z' WHERE id = 'web-1-a'",
        "UPDATE objects SET kind = 'other' WHERE kind = 'group'",
    ] {
        store.connection.execute_batch("SAVEPOINT before").unwrap();
        assert!(store.connection.execute(change, []).unwrap() > 0);
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(home::DESTROY_LOST), "{error}");
        store.connection.execute_batch("ROLLBACK TO before; RELEASE before").unwrap();
    }
    store.load().unwrap();
}

/// Starts [`on_a_full_disk`] with a small file system of its own.
#[test]
fn a_full_disk_can_be_destroyed_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=4m small {folder} && exec env {variable}={folder} {program} --exact --ignored {test}",
        folder = folder.path().display(),
        variable = FULL_DISK,
        program = program.display(),
        test = "cloud::local::store::tests::on_a_full_disk",
    );
    let unshare = |arguments: &[&str], script: &str| {
        std::process::Command::new("unshare").args(arguments).args(["sh", "-c", script]).output().unwrap()
    };
    let Some(arguments) = [&["--mount"][..], &["--mount", "--map-root-user"]]
        .into_iter()
        .find(|arguments| unshare(arguments, "exit 0").status.success())
    else {
        #[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
        {
            eprintln!("skipped: this user may not make a mount namespace");
        }
        return;
    };
    let output = unshare(arguments, &script);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

/// Names the folder of the small file system.
const FULL_DISK: &str = "I2KIT_TEST_FULL_DISK";

#[test]
#[ignore = "started by a_full_disk_can_be_destroyed_on"]
fn on_a_full_disk() {
    use std::io::Write as _;
    /// So many VMs a decision, so that the test is done soon.
    const MORE: u32 = 25;
    let folder = PathBuf::from(std::env::var_os(FULL_DISK).unwrap());
    let path = folder.join("cloud.db");
    let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
    let state = environments();
    store.save(&state).unwrap();
    let mut filling = std::fs::File::create(folder.join("filling")).unwrap();
    while filling.write_all(&[1; 512]).is_ok() {}
    // Decisions go on, also those of a process that starts now.
    store.save(&grown(&state, "web-1-y")).unwrap();
    drop(store);
    let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
    assert_eq!(loaded, grown(&state, "web-1-y"));
    let mut state = state;
    let mut count = 0;
    let error = loop {
        let next = (count..count + MORE).fold(state.clone(), |state, n| grown(&state, &format!("web-1-{n}")));
        match store.save(&next) {
            Ok(()) => (state, count) = (next, count + MORE),
            Err(error) => break error.to_string(),
        }
    };
    assert!(count > 50, "room for {count} VMs");
    assert!(error.contains(&folder.display().to_string()) && error.contains("0 bytes are free"), "{error}");
    store.save(&Environments::new()).unwrap();
    drop(store);
    let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
    assert!(loaded.is_empty());
    std::fs::remove_file(folder.join("filling")).unwrap();
    store.save(&state).unwrap();
}

#[test]
fn another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.db");
    drop(Store::open(&path, || Ok(())).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(Store::open(&path, || Ok(())).unwrap_err().to_string().contains("version 99"));
}
