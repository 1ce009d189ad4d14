//! Real software of all kinds, deployed and asked something through its Service.

use std::collections::BTreeSet;
use std::time::Duration;

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
    eventually(&format!("answer of {name}{path}"), || {
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
        let target = format!("host={host} port={port} user=postgres password={password} connect_timeout=300");
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

    // A server that is started again in its machine finds its data. SIGINT is the image's stop signal, on which the server
    // does not wait for its clients.
    world.i2kit(&["exec", "postgres", "--", "sh", "-c", "kill -INT 1"]).run();
    eventually("the server again", || {
        let again = world.i2kit(&["logs", "postgres", "--previous"]).run().stdout;
        again.contains("database system is shut down").then_some(())
    });
    eventually("the table again", || {
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
        answer.contains("Hello from process ") && answer.contains(", asked for /deep/path\n"),
        "{answer}"
    );
    // Both workers answer, sooner or later.
    let mut seen = BTreeSet::new();
    eventually("answers of two workers", || {
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
    // Half of 256 MiB, less what its collector keeps for itself.
    assert_eq!(answer, "java 17 heap 121 processors 1 user ?\n");
    let full = page(&world, "java", "/fill");
    assert!(full.starts_with("Java heap space after "), "{full}");
    assert_eq!(page(&world, "java", "/"), answer);
}

#[test]
fn a_static_program_needs_nothing_around_it() {
    if !machines() {
        return;
    }
    let world = world();
    let pod = |name: &str| {
        format!("name: {name}\ncontainers:\n  server:\n    image: static:{name}\n    ports: [80]\n")
    };
    world.write("plain.yaml", &pod("1").replace("name: 1", "name: plain"));
    world.write("numeric.yaml", &pod("numeric"));
    world.i2kit(&["deploy", "plain.yaml", "numeric.yaml"]).run();
    let id = |name: &str| world.group(name).instances[0].id.clone();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(page(&world, "plain", "/"), format!("HOME=/\nHOSTNAME={}\n{path}\nin /\n", id("plain")));
    let user = |name: &str| {
        let status = page(&world, name, "/proc/self/status");
        let lines = status.lines().filter(|line| {
            line.starts_with("Uid:") || line.starts_with("Gid:") || line.starts_with("CapEff:")
        });
        lines.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(user("plain"), "Uid:\t0\t0\t0\t0 Gid:\t0\t0\t0\t0 CapEff:\t00000000a80425fb");
    // A number without a name has a home all the same, and may use low ports.
    assert_eq!(page(&world, "numeric", "/"), format!("HOME=/\nHOSTNAME={}\n{path}\nin /\n", id("numeric")));
    assert_eq!(
        user("numeric"),
        "Uid:\t1234\t1234\t1234\t1234 Gid:\t1234\t1234\t1234\t1234 CapEff:\t0000000000000000"
    );
    // Names are resolved although the image has no folder for that.
    let hosts = page(&world, "plain", "/etc/hosts");
    assert!(hosts.contains("127.0.0.1\tlocalhost") && hosts.contains(&*id("plain")), "{hosts}");
    world
        .i2kit(&["exec", "numeric", "--", "/server", "/etc/hostname"])
        .stdout(&format!("{}\n", id("numeric")))
        .run();
    world.i2kit(&["exec", "numeric", "--", "sh"]).code(127).says("\"sh\" is not found").run();
}

#[test]
fn an_image_may_have_sixty_layers() {
    if !machines() {
        return;
    }
    let world = world();
    world.write(
        "sixty.yaml",
        "name: sixty\ncontainers:\n  httpd:\n    image: sixty:1\n    command: [httpd, -f, -p, '80', -h, /]\n    ports: [80]\n",
    );
    world.i2kit(&["deploy", "sixty.yaml"]).run();
    assert_eq!(page(&world, "sixty", "/top"), "60\n");
    let expected: Vec<String> = (2..=60).filter(|n| (n + 1) % 7 != 0).map(|n: u32| n.to_string()).collect();
    world
        .i2kit(&[
            "exec",
            "sixty",
            "--",
            "sh",
            "-c",
            "cd /layers; ls | sort -n; cat $(ls | sort -n) > /tmp-all; ls | sort -n | cmp - /tmp-all",
        ])
        .stdout(&(expected.join("\n") + "\n"))
        .run();
}

/// What `program` answers as the user of the image with rights in its files.
const PROGRAM: &str = "import os, socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from subprocess import run

def xattr(path, name):
    return os.getxattr(path, name).decode()

def raw(python):
    made = run([python, '-c', 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'], capture_output=True)
    return 'raw' if made.returncode == 0 else made.stderr.decode().splitlines()[-1]

def chown():
    open('/tmp/x', 'w').close()
    made = run(['/usr/local/bin/chown', '7:7', '/tmp/x'], capture_output=True)
    return f'{os.stat(\"/tmp/x\").st_uid} {made.stderr.decode().strip()}'

lines = [
    str(os.getuid()),
    raw('python3'), raw('/usr/local/bin/pyraw'), chown(),
    xattr('/srv/noted', 'user.note'), xattr('/srv/folder', 'user.note'), str(len(xattr('/srv/noted', 'user.large'))),
    os.getxattr('/usr/local/bin/chown', 'security.capability').hex(),
]
body = '\\n'.join(lines + ['']).encode()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(('', 8000), Handler).serve_forever()
";

#[test]
fn capabilities_of_files_work_and_can_be_refused() {
    if !machines() {
        return;
    }
    let world = world();
    let lines: Vec<String> = PROGRAM.lines().map(|line| format!("    {line}")).collect();
    let program = lines.join("\n");
    let pod = |name: &str, context: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      volumes: [{{name: tmp, emptyDir: {{}}}}, {{name: program, \
             configMap: {{name: program}}}}]\n      containers:\n      - {{name: python, image: 'python:rights', command: [python3, \
             /program/rights.py], ports: [{{containerPort: 8000}}], securityContext: {context}, volumeMounts: [{{name: tmp, mountPath: \
             /tmp}}, {{name: program, mountPath: /program}}]}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec:\n  selector: {{app: {name}}}\n  ports: [{{port: 8000}}]\n---\n"
        )
    };
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: program}}\ndata:\n  rights.py: |\n{program}\n---\n"
    );
    let text = map + &pod("may", "{}") + &pod("may-not", "{allowPrivilegeEscalation: false}");
    world.write("rights.yaml", &text);
    world.i2kit(&["deploy", "rights.yaml"]).run();
    // Revision 2 of the attribute: effective, and the one capability of that number.
    let attributes = "a file's\na folder's\n2000\n0100000201000000000000000000000000000000\n";
    let refused = "PermissionError: [Errno 1] Operation not permitted\n";
    assert_eq!(page(&world, "may", "/"), format!("4321\n{refused}raw\n7 \n{attributes}"));
    let denied = "4321 /usr/local/bin/chown: changing ownership of '/tmp/x': Operation not permitted\n";
    assert_eq!(page(&world, "may-not", "/"), format!("4321\n{refused}{refused}{denied}{attributes}"));
}

#[test]
fn datagrams_go_through_a_balancer_there_and_back() {
    if !machines() {
        return;
    }
    let world = world();
    let manifest = "apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
        - name: echo
          image: python:3
          command: [python3, -c]
          args:
            - |
              import socket
              server = socket.socket(type=socket.SOCK_DGRAM)
              server.bind((\"\", 5353))
              while True:
                  line, client = server.recvfrom(1000)
                  server.sendto(line + b\" from \" + socket.gethostname().encode(), client)
          ports: [{containerPort: 5353, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{port: 5353, protocol: UDP}]
";
    world.write("echo.yaml", manifest);
    world.i2kit(&["deploy", "echo.yaml"]).run();
    let address = world.address("echo");
    let ask = || -> std::io::Result<String> {
        // A client of its own each time, which is what a balancer divides by.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_mins(1)))?;
        socket.connect(&address)?;
        socket.send(b"hello")?;
        let mut answer = [0; 256];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let answers: BTreeSet<String> = eventually("answers of both machines", || {
        let answers: BTreeSet<String> = (0..4).filter_map(|_| ask().ok()).collect();
        (answers.len() == 2).then_some(answers)
    });
    let expected = world.group("echo").instances;
    let expected = expected.iter().map(|instance| format!("hello from {}", instance.id)).collect();
    assert_eq!(answers, expected);
}
