//! Real software of all kinds, deployed and asked something through its Service.

use crate::support::{Images, World, eventually, get, machines, root};

fn example(name: &str) -> String {
    root().join(name).display().to_string()
}

/// A world with what is tried on.
fn world() -> World {
    World::with(Images::Software)
}

/// The body of the page at `path` of the Service `name`, once there is one.
fn page(world: &World, name: &str, path: &str) -> String {
    let address = world.address(name);
    eventually(&format!("answer of {name}{path}"), 120, || {
        let response = get(&address, path).ok().filter(|response| response.status == 200)?;
        response.text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    })
}

#[test]
fn postgres_keeps_what_a_client_writes() {
    if !machines() {
        return;
    }
    let world = world();
    world.i2kit(&["deploy", &example("manifests/postgres.yaml")]).run();
    let address = world.address("postgres");
    let (host, port) = address.split_once(':').unwrap();
    let ask = |password: &str, query: &str| {
        let target = format!("host={host} port={port} user=postgres password={password} connect_timeout=30");
        world.tool(
            "psql",
            &[&target, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", query],
        )
    };
    let fill =
        "CREATE TABLE numbers AS SELECT n FROM generate_series(1, 10000) n; SELECT sum(n) FROM numbers";
    ask("change-me", fill).stdout("50005000\n").run();
    ask("wrong", "SELECT 1").code(2).says("password authentication failed").run();
    world
        .i2kit(&["exec", "postgres", "--", "id"])
        .stdout("uid=999(postgres) gid=999(postgres) groups=999(postgres)\n")
        .run();

    // A server that is started again in its machine finds its data. The image asks for SIGINT, on which it does not wait
    // for its clients.
    world.i2kit(&["exec", "postgres", "--", "sh", "-c", "kill -INT 1"]).run();
    eventually("the server again", 120, || {
        let again = world.i2kit(&["logs", "postgres", "--previous"]).run().stdout;
        again.contains("database system is shut down").then_some(())
    });
    eventually("the table again", 120, || {
        let target = format!("host={host} port={port} user=postgres password=change-me");
        let output = std::process::Command::new("psql")
            .args([
                &target,
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--command",
                "SELECT count(*) FROM numbers",
            ])
            .output()
            .unwrap();
        (output.stdout == b"10000\n").then_some(())
    });
}

#[test]
fn python_serves_a_program_of_a_config_map() {
    if !machines() {
        return;
    }
    let world = world();
    world.i2kit(&["deploy", &example("manifests/python.yaml")]).run();
    let answer = page(&world, "python", "/deep/path");
    assert!(
        answer.starts_with("Hello from process ") && answer.ends_with("asked for /deep/path\n"),
        "{answer}"
    );
    // Both workers answer, sooner or later.
    let mut seen = std::collections::BTreeSet::new();
    eventually("answers of two workers", 120, || {
        seen.insert(page(&world, "python", "/"));
        (seen.len() == 2).then_some(())
    });
}

#[test]
fn java_respects_the_limits_of_its_container() {
    if !machines() {
        return;
    }
    let world = world();
    world.i2kit(&["deploy", &example("manifests/java.yaml")]).run();
    let answer = page(&world, "java", "/");
    // A quarter of 256 MiB, less what its collector keeps for itself.
    assert_eq!(answer, "java 17 heap 61 processors 1 user ?\n");
    let full = page(&world, "java", "/fill");
    assert!(full.starts_with("Java heap space after "), "{full}");
    assert_eq!(page(&world, "java", "/"), answer);
}
