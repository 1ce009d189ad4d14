//! Environment, files and volumes of containers, seen from inside.

use std::fs;
use std::io::Write as _;

use i2kit::erofs::{TreeContent, TreeFile};
use i2kit_spec::runtime::NamespaceKind;
use i2kit_spec::secrets::{SECRETS_PORT, encode_secrets};
use i2kit_spec::{
    Bytes, EnvValue, EnvVar, HostAlias, InstanceField, LateContent, LateEnvironment, LateFile, Names,
    VolumeBoot, VolumeKind,
};

use crate::manifest::{SHELL, pod_of};
use crate::pod::{Pod, mount};
use crate::vm::{Vm, wanted};

/// A file of the pod file system with this mode.
fn file(path: &str, mode: u16, text: &str) -> TreeFile {
    TreeFile { path: path.into(), mode, content: TreeContent::File(text.as_bytes().to_vec()) }
}

fn instance(path: &str, field: InstanceField) -> LateFile {
    LateFile { path: path.into(), mode: 0o640, content: LateContent::Instance(field) }
}

/// Containers that share volumes, that are mounted at links and at paths which are not in the image, and that try to leave them.
fn pod_with_volumes() -> Pod {
    let late = |text: &str| {
        Some(LateEnvironment {
            env: vec![EnvVar { name: "X".into(), value: EnvValue::Fixed(text.into()) }],
            expand_args: false,
            expand_mounts: vec!["/out".into()],
        })
    };
    let mut pod = Pod::new()
        .base_link("var/run", "/run")
        .base_link("var/lock", "../run/lock")
        .base_link("esc", "../../../etc/esc")
        .base_link("etc/enabled/site", "../avail/site")
        .base_file("etc/avail/site", b"the image's\n")
        .file(file("volumes/config/app.conf", 0o440, "level = 1\n"))
        .file(file("volumes/config/bin/run", 0o755, "#!/bin/sh\necho it runs\n"))
        .file(file("volumes/info/known", 0o444, "known\n"))
        .onboot(
            "fill",
            "echo filled > /data/from-init; ln -s /etc /data/out; echo inside > /data/sub-file; echo seen > /dev/shm/word; \
             echo 192.0.2.66 changed >> /etc/hosts; dd if=/dev/zero of=/etc/hosts bs=64k count=64 2>&1 | grep -o 'No space.*'",
        )
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data", "rbind,rw,nodev")))
        .service(
            "writer",
            "test \"$(cat /data/runs 2>/dev/null | wc -l)\" -ge 2 || echo again >> /data/runs; exit 1",
        )
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data", "rbind,rw,nodev")))
        .service("escape", "echo escaped; sleep 1000")
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data/out", "rbind,rw,nodev")))
        .service("by-variable", "echo escaped; sleep 1000")
        .with(|config| config.mounts.push(mount("/out", "bind", "/pod/volumes/config/$(X)", "rbind,ro,nodev")))
        .service("by-root", "echo escaped; sleep 1000")
        .with(|config| config.mounts.push(mount("/out", "bind", "$(X)", "rbind,ro,nodev")))
        .shell()
        .with(|config| {
            for (target, source, access) in [
                ("/data", "/volumes/data", "ro"),
                ("/file", "/volumes/data/sub-file", "rw"),
                ("/deep", "/volumes/data/made/deep", "rw"),
                ("/config", "/pod/volumes/config", "ro"),
                ("/one", "/pod/volumes/config/bin/run", "ro"),
                ("/info", "/volumes/info", "ro"),
                ("/var/run", "/volumes/data/links/run", "rw"),
                ("/var/lock", "/volumes/data/links/lock", "rw"),
                ("/esc", "/volumes/data/links/esc", "rw"),
                ("/etc/enabled/site", "/pod/volumes/config/app.conf", "ro"),
                ("/new/folder/volume", "/volumes/data", "rw"),
                ("/conf/file", "/pod/volumes/config/app.conf", "ro"),
            ] {
                config.mounts.push(mount(target, "bind", source, &format!("rbind,{access},nodev")));
            }
            config.process.cwd = "/home/none/such".into();
        });
    for service in &mut pod.boot.services {
        match service.name.as_str() {
            "by-variable" => service.late = late("../../.."),
            "by-root" => service.late = late("/run/i2kit"),
            _ => {}
        }
    }
    pod.boot.volumes = vec![
        VolumeBoot {
            name: "data".into(),
            kind: VolumeKind::EmptyDir { size_limit: Some(Bytes::mib(1)), disk: None },
        },
        VolumeBoot {
            name: "info".into(),
            kind: VolumeKind::Files {
                files: vec![
                    instance("name", InstanceField::Name),
                    instance("deep/down/ip", InstanceField::Ip),
                ],
            },
        },
    ];
    pod
}

#[test]
fn volumes_are_shared_bounded_and_kept_when_a_container_ends() {
    if !wanted() {
        return;
    }
    let mut vm = Vm::boot(&pod_with_volumes());
    vm.says("writer: Error, exit code 1, to be started again in 10 s");
    vm.says("escape: StartError, exit code 128 (subPath out of volume data: leads out of the volume)");
    vm.says(
        "by-variable: StartError, exit code 128 (subPath ../../.. of volume config: leads out of the volume)",
    );
    vm.says("by-root: StartError, exit code 128 (source of a mount: /run/i2kit is not known to this guest)");
    vm.says("fill | No space left on device\n");
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    // As in a container engine, links of the image are followed inside of it, and what is missing there is made.
    check(
        "cd /; touch /var/run/x /var/lock/y /esc/z; for link in /var/run /var/lock /esc; do readlink $link; done; ls /run /run/lock /etc/esc",
        "/run\n../run/lock\n../../../etc/esc\n/etc/esc:\nz\n\n/run:\nlock\nx\n\n/run/lock:\ny\n",
    );
    check("readlink /etc/enabled/site; cat /etc/avail/site", "../avail/site\nlevel = 1\n");
    check(
        "stat -c '%a %u %n' /new /new/folder /conf /home /home/none /home/none/such; pwd",
        "755 0 /new\n755 0 /new/folder\n755 0 /conf\n755 0 /home\n755 0 /home/none\n755 0 /home/none/such\n/home/none/such\n",
    );
    // Memory is the pod's, names are each container's own.
    check("cat /dev/shm/word; stat -c %a /dev/shm; grep -c changed /etc/hosts", "seen\n1777\n0\n");
    check("cat /data/from-init /data/runs /file", "filled\nagain\nagain\ninside\n");
    check("echo x > /data/x", "sh: can't create /data/x: Read-only file system\n");
    check(
        "echo changed > /file; cat /data/sub-file; echo y > /deep/y; cat /data/made/deep/y",
        "changed\ny\n",
    );
    check("stat -c %a /data /data/made/deep; df -k /data | tail -n 1 | head -c 100 | wc -l", "777\n777\n1\n");
    check(
        "dd if=/dev/zero of=/deep/big bs=64k count=32 2>&1 | grep -o 'No space left on device'; rm /deep/big",
        "No space left on device\n",
    );
    check(
        "cat /config/app.conf; stat -c %a /config/app.conf; /config/bin/run; /one",
        "level = 1\n440\nit runs\nit runs\n",
    );
    check("cat /info/known /info/name; echo; cat /info/deep/down/ip", "known\ntest-1\n10.0.2.15");
    check("stat -c %a /info/known /info/name /info/deep", "444\n640\n755\n");
    check(
        "echo x > /info/x; echo x > /config/x",
        "sh: can't create /info/x: Read-only file system\nsh: can't create /config/x: Read-only file system\n",
    );
}

#[test]
fn scratch_space_lies_on_a_disk_that_is_not_memory() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec![];
    // The second one is so large that its size is seen; the third disk is not there, as in a cloud that has none.
    for (number, bytes) in [(0_u64, 100_u64 << 20), (1, 16 << 30)] {
        let path = folder.path().join(number.to_string());
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        arguments.push("-drive".to_owned());
        arguments
            .push(format!("if=none,id=scratch{number},format=raw,discard=unmap,file={}", path.display()));
        arguments.push("-device".to_owned());
        arguments
            .push(format!("virtio-blk-pci,drive=scratch{number},serial=i2kit-scratch-{number},discard=on"));
    }
    let names = ["large", "unbounded", "nowhere"];
    let volumes = names.map(|name| format!("{{name: {name}, emptyDir: {{}}}}")).join(", ");
    let mounts = names.map(|name| format!("{{name: {name}, mountPath: /{name}}}")).join(", ");
    let below = "{name: large, mountPath: /below, subPath: made/deep}";
    let spec = |more: &str| {
        format!(
            "{{securityContext: {{fsGroup: 2000}}, {more}volumes: [{volumes}], containers: [{{{SHELL}, volumeMounts: [{mounts}, \
             {below}], resources: {{limits: {{memory: 32Mi}}}}}}]}}"
        )
    };
    let parameters = "i2kit.instance=test-1 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3";
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for more in ["", "hostUsers: false, "] {
        let mut vm = Vm::boot_with(&pod_of(&spec(more), ""), parameters, &arguments);
        let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
        check(
            "for n in large unbounded nowhere below; do grep \" /$n \" /proc/self/mounts | cut -d' ' -f 3; done",
            "ext4\next4\ntmpfs\next4\n",
        );
        // Three times what the container may have of memory, and more than the machine has left.
        check(
            "dd if=/dev/zero of=/large/file bs=1M count=90 2>&1 | grep -v records; wc -c < /large/file",
            "94371840\n",
        );
        check(
            "dd if=/dev/zero of=/large/more bs=1M count=20 2>&1 | grep -o 'No space left on device'",
            NO_SPACE,
        );
        check("rm /large/file /large/more; echo again > /large/file; cat /large/file", "again\n");
        check(
            "ls -A /unbounded; touch /unbounded/x /below/y; stat -c '%a %u %g' /unbounded",
            "2777 0 2000\n",
        );
        check("stat -c '%u %g' /unbounded/x /large/made/deep/y; id -g", "0 2000\n0 2000\n0\n");
        check(
            "test $(df -k /unbounded | tail -n 1 | tr -s ' ' | cut -d' ' -f 2) -gt 16000000 && echo large",
            "large\n",
        );
        assert!(!vm.console().contains("OOMKilled"), "{}", vm.console());
    }
}

const NO_SPACE: &str = "No space left on device\n";

#[test]
fn volumes_belong_to_the_group_of_the_pod() {
    if !wanted() {
        return;
    }
    let mut pod =
        Pod::new().file(file("volumes/info/known", 0o400, "known\n")).shell().user("web").with(|config| {
            for name in ["data", "info"] {
                let source = format!("/volumes/{name}");
                config.mounts.push(mount(&format!("/{name}"), "bind", &source, "rbind,rw,nodev"));
            }
            config.process.user.additional_gids = vec![2000];
        });
    pod.boot.fs_group = Some(2000);
    pod.boot.volumes = vec![
        VolumeBoot { name: "data".into(), kind: VolumeKind::EmptyDir { size_limit: None, disk: None } },
        VolumeBoot { name: "info".into(), kind: VolumeKind::Files { files: vec![] } },
    ];
    let mut vm = Vm::boot(&pod);
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check("stat -c '%a %g' /data /info /info/known", "2777 2000\n2755 2000\n440 2000\n");
    check("touch /data/x; stat -c '%u %g' /data/x; cat /info/known", "33 2000\nknown\n");
}

#[test]
fn variables_of_the_instance_are_filled_in_at_boot() {
    if !wanted() {
        return;
    }
    let variable = |name: &str, value| EnvVar { name: name.into(), value };
    let written = |text: &str| EnvValue::Written(text.into());
    let token = i2kit_spec::SecretKey { secret: "login".into(), key: "token".into(), optional: false };
    let mut path = "/bin".to_owned();
    for number in 0..1000 {
        path.insert_str(0, &format!("/no/{number}:"));
    }
    let mut pod = Pod::new()
        .service("spy", SPY)
        // A long way to its program leaves a process of PID 1's own making in sight for a while.
        .with(|config| config.process.env = vec![format!("PATH={path}")])
        .probes(|probes| {
            let command = ["true"].map(Into::into).into();
            probes.readiness = Some(crate::every_second(i2kit_spec::ProbeAction::Exec { command }));
        })
        // The machine's operator, so to speak: it sees all processes and may read their memory.
        .service("reader", READER)
        .with(|config| {
            config.linux.namespaces.retain(|namespace| namespace.kind != NamespaceKind::Pid);
            let all = &mut config.process.capabilities;
            for set in [&mut all.bounding, &mut all.effective, &mut all.permitted] {
                set.push("CAP_SYS_PTRACE".into());
            }
        })
        .shell()
        .with(|config| {
            config.process.env.push("IMAGE=image".into());
            config.process.env.push("BOTH=image".into());
            config.mounts.push(mount("/logs", "bind", "/volumes/data/$(NAME)", "rbind,rw,nodev"));
        })
        .service("echo", "")
        .with(|config| {
            config.process.args = ["echo", "$(URL)", "$$(URL)", "$(IMAGE)"].map(Into::into).into();
        });
    let file = LateFile { path: "token".into(), mode: 0o400, content: LateContent::Secret(token.clone()) };
    pod.boot.volumes = vec![
        VolumeBoot { name: "data".into(), kind: VolumeKind::EmptyDir { size_limit: None, disk: None } },
        VolumeBoot { name: "login".into(), kind: VolumeKind::Files { files: vec![file] } },
    ];
    let env = vec![
        variable("TOKEN", EnvValue::Secret(token)),
        variable("KNOWN", EnvValue::Fixed("known-to-pid-1".into())),
        variable("EARLY", written("$(IP)")),
        variable("IP", EnvValue::Instance(InstanceField::Ip)),
        variable("NAME", EnvValue::Instance(InstanceField::Name)),
        variable("UID_OF_POD", EnvValue::Instance(InstanceField::Uid)),
        variable("CPUS", EnvValue::Instance(InstanceField::CpuMillis(1000))),
        variable("MIB", EnvValue::Instance(InstanceField::MemoryBytes(1 << 20))),
        variable("FIXED", EnvValue::Fixed("$(IP)".into())),
        variable("BOTH", written("manifest")),
        variable("URL", written("http://$(NAME).example/$$(IP)/$(IP)")),
    ];
    for service in
        pod.boot.services.iter_mut().filter(|service| ["shell", "echo"].contains(&service.name.as_str()))
    {
        service.late = Some(LateEnvironment {
            env: env.clone(),
            expand_args: true,
            expand_mounts: vec!["/logs".into()],
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    let chardev = format!("socket,id=secrets,path={},server=on,wait=off", path.display());
    let port = format!("virtserialport,chardev=secrets,name={SECRETS_PORT}");
    let arguments = ["-chardev", &chardev, "-device", "virtio-serial-pci", "-device", &port];
    let parameters = "i2kit.instance=test-1 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3";
    let mut vm = Vm::boot_with(&pod, parameters, &arguments);
    let values = [("login".to_owned(), [("token".to_owned(), b"marker-5d1f".to_vec())].into())].into();
    let mut host = crate::control::connect(&path);
    host.write_all(&encode_secrets(&values).unwrap()).unwrap();
    vm.says("echo | http://test-1.example/$(IP)/10.0.2.15 $(URL) $(IMAGE)\n");
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check(
        "echo $EARLY $IP $NAME $CPUS $FIXED $IMAGE $BOTH",
        "$(IP) 10.0.2.15 test-1 1 $(IP) image manifest\n",
    );
    check("echo $URL; echo x > /logs/x; ls /logs", "http://test-1.example/$(IP)/10.0.2.15\nx\n");
    check("test \"$UID_OF_POD\" = \"$(cat /proc/sys/kernel/random/boot_id)\" && echo same", "same\n");
    check("test $MIB -gt 60 -a $MIB -le 128 && echo plausible", "plausible\n");
    // The value of a Secret is the container's, and PID 1 never had it, neither for a variable nor for a volume.
    check("echo $TOKEN; sleep 1; touch /dev/shm/look", "marker-5d1f\n");
    vm.says("reader | PID 1 has the Secret ");
    let console = vm.console();
    assert!(console.contains("reader | PID 1 has the Secret 0 times\n"), "{console}");
    assert!(console.contains("reader | known: ") && !console.contains("reader | known: 0\n"), "{console}");
    // Each command that PID 1 runs in a container is a copy of it until it has become its program.
    vm.shell("until [ -s /dev/shm/seen ] && [ $(cat /dev/shm/seen) -ge 3 ]; do sleep 0.2; done");
    let console = vm.console();
    assert!(!console.contains("spy | opened"), "{console}");
}

/// Opens the memory of each process that PID 1 has started in the container and that is not its program yet, as it is known by
/// its name before and after.
const SPY: &str = "n=0; while :; do for p in /proc/[0-9]*; do \
    { read -r name < $p/comm; } 2>/dev/null || continue; [ \"$name\" = init ] || continue; \
    n=$((n+1)); echo $n > /dev/shm/seen; \
    { true < $p/mem; } 2>/dev/null && { read -r name < $p/comm; } 2>/dev/null && [ \"$name\" = init ] && \
    echo opened $p/mem; done; done";

/// Counts what PID 1's memory has, once it is told to. What it looks for is put together, since PID 1 has this text too.
const READER: &str = "until [ -e /dev/shm/look ]; do sleep 0.2; done; dump() { while read range access rest; do \
    case $access in rw*) a=$((0x${range%-*})); b=$((0x${range#*-})); \
    dd if=/proc/1/mem bs=4096 skip=$((a/4096)) count=$(((b-a)/4096)) 2>/dev/null;; esac; done < /proc/1/maps; }; \
    m=mark; k=kn; echo known: $(dump | grep -c ${k}own-to-pid-1); \
    echo PID 1 has the Secret $(dump | grep -c ${m}er-5d1f) times; exec sleep 100000";

#[test]
fn names_are_those_of_the_pod() {
    if !wanted() {
        return;
    }
    let mut pod = Pod::new().shell();
    pod.boot.names = Names {
        hostname: Some("db-0".into()),
        domain: Some("db.default.svc.cluster.local".into()),
        host_aliases: vec![HostAlias { ip: "192.0.2.7".into(), names: vec!["a".into(), "b.example".into()] }],
        own_resolvers_only: true,
        nameservers: vec!["192.0.2.53".into()],
        searches: vec!["example".into()],
        options: vec!["ndots:2".into()],
    };
    let mut vm = Vm::boot(&pod);
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check("hostname; hostname -f; echo $HOSTNAME", "db-0\ndb-0.db.default.svc.cluster.local\ndb-0\n");
    check("tail -n 1 /etc/hosts", "192.0.2.7\ta\tb.example\n");
    check("cat /etc/resolv.conf", "nameserver 192.0.2.53\nsearch example\noptions ndots:2\n");
}
