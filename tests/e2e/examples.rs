//! Every example of `manifests/`, deployed.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{World, eventually, get, kill, machines, root, wait_for_page};

fn example(name: &str) -> String {
    root().join(name).display().to_string()
}

/// The machines that answer when `address` is asked a few times, by the names that they give themselves.
fn servers(address: &str) -> BTreeSet<String> {
    let answers = (0..12).filter_map(|_| get(address, "/").ok());
    let names = answers.filter_map(|response| {
        let (_, rest) = response.text.split_once("X-Served-By: ")?;
        Some(rest.lines().next()?.to_owned())
    });
    names.collect()
}

#[test]
fn nginx_serves_behind_a_balancer_and_survives_kills() {
    if !machines() {
        return;
    }
    let world = World::new();
    let manifest = &example("manifests/nginx.yaml");
    world.i2kit(&["plan", manifest, "--detailed-exitcode"]).code(10).run();
    world.i2kit(&["deploy", manifest]).run();
    let address = world.address("nginx");
    let url = format!("http://{}/", address.trim_end_matches(":80"));
    world.i2kit(&["deploy", manifest]).stdout(&format!("unchanged\nnginx {url}\n")).run();
    world.i2kit(&["plan", manifest, "--detailed-exitcode"]).run();

    eventually("answers of three machines", || (servers(&address).len() == 3).then_some(()));
    world.i2kit(&["logs", "nginx", "-c", "nginx"]).prints("nginx | ").prints("\"GET / HTTP/1.1\" 200").run();
    world.i2kit(&["status"]).prints("3/3").prints(&address).run();

    // A machine that dies is replaced; the other two stay.
    let before = world.group("nginx");
    kill(before.instances[0].pid.unwrap());
    eventually("replacement", || {
        let group = world.group("nginx");
        (group.healthy() == 3 && group.members().all(|i| i.id != before.instances[0].id)).then_some(())
    });
    let boots = |instances: &[i2kit::plan::fleet::Instance]| -> BTreeSet<String> {
        instances.iter().filter_map(|instance| instance.boot_id.clone()).collect()
    };
    let after = world.group("nginx").instances;
    assert!(boots(&before.instances[1..]).is_subset(&boots(&after)));

    // The local cloud's process is only a keeper: traffic goes on without it, the next verb starts another one, and the
    // same machines answer.
    kill(world.local_cloud());
    for _ in 0..50 {
        assert!(get(&address, "/").is_ok(), "{address} does not answer without the local cloud");
    }
    let decides = |(_, arguments): &(u32, String)| arguments.contains("local-cloud");
    assert!(!world.processes().iter().any(decides), "a question to a Service started the local cloud");
    eventually("adoption of the same machines", || {
        let group = world.group("nginx");
        (group.healthy() == 3 && boots(&group.instances) == boots(&after)).then_some(())
    });
    eventually("answers of three machines", || (servers(&world.address("nginx")).len() == 3).then_some(()));

    world.i2kit(&["destroy", manifest]).run();
    world.i2kit(&["status"]).prints("holds nothing").run();
    world.assert_nothing_left();
    assert!(get(&address, "/").is_err(), "{address} still answers");
}

#[test]
fn containers_of_a_pod_share_localhost() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write_example("manifests/two-containers.yaml", "web.yaml", &[("replicas: 2", "replicas: 1")]);
    world.i2kit(&["deploy", "web.yaml"]).run();
    wait_for_page(&world.address("web"), "nginx 1.27");
    eventually("line of the second container", || {
        let lines = world.i2kit(&["logs", "web", "--container", "watch"]).run().stdout;
        lines.contains("watch | http://localhost:80/ answers").then_some(())
    });
    let names: Vec<String> =
        world.group("web").instances[0].containers.iter().map(|container| container.name.clone()).collect();
    assert_eq!(names, ["nginx", "watch"]);
}

#[test]
fn redis_answers_through_its_service() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.i2kit(&["deploy", &example("manifests/redis.yaml")]).run();
    let address = world.address("redis");
    let ask = |command: &str| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        write!(stream, "{command}\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    eventually("redis", || ask("SET pod vm").ok().filter(|answer| answer.starts_with("+OK")));
    assert_eq!(ask("GET pod").unwrap(), "$2\r\nvm\r\n+OK\r\n");
}

#[test]
fn pods_find_each_other_by_the_names_of_their_services() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.i2kit(&["deploy", &example("manifests/proxy.yaml")]).run();
    wait_for_page(&world.address("proxy"), "Hello from greeter-1-");
    // From inside, by every form of the name; a name that no Service has is said to be none.
    let address = world.address("greeter");
    // The Service has the same last bytes in the environment's network as on this host.
    let address = &address.trim_end_matches(":80").replacen("127.", "10.", 1);
    let inside = |host: &str| world.i2kit(&["exec", "proxy", "--", "getent", "ahostsv4", host]);
    for name in ["greeter", "greeter.default", "greeter.default.svc", "greeter.default.svc.cluster.local"] {
        inside(name).prints(address).run();
    }
    inside("greter.default").code(2).run();

    // Whoever keeps the names may die: the machines ask its successor at the same address.
    kill(world.local_cloud());
    world.i2kit(&["status"]).run();
    eventually("names after the kill", || {
        let page = get(&world.address("proxy"), "/").ok()?;
        page.text.contains("Hello from greeter-1-").then_some(())
    });
    inside("greeter.default").prints(address).run();
    world.i2kit(&["destroy", &example("manifests/proxy.yaml")]).run();
    world.assert_nothing_left();
}

#[test]
fn several_files_are_one_set() {
    if !machines() {
        return;
    }
    let world = World::new();
    let (hello, short) = (&example("manifests/hello.yaml"), &example("manifests/short.yaml"));
    world.i2kit(&["deploy", hello, short]).run();
    wait_for_page(&world.address("hello"), "Hello from hello-");
    wait_for_page(&world.address("short"), "nginx 1.27 on short-");
    assert_eq!(world.group("short").healthy(), 2);
    world.i2kit(&["destroy", short]).run();
    wait_for_page(&world.address("hello"), "Hello from hello-");
    world.i2kit(&["destroy", "hello"]).run();
    world.assert_nothing_left();
}
