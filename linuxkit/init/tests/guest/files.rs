//! Environment, files and volumes of containers, seen from inside.

use std::fs;

use i2kit::erofs::{TreeContent, TreeFile};
use i2kit_spec::{
    HostAlias, InstanceField, LateContent, LateEnvironment, LateFile, LateValue, LateVariable, Names,
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

#[test]
fn volumes_are_shared_bounded_and_kept_when_a_container_ends() {
    if !wanted() {
        return;
    }
    let mut pod = Pod::new()
        .file(file("volumes/config/app.conf", 0o440, "level = 1\n"))
        .file(file("volumes/config/bin/run", 0o755, "#!/bin/sh\necho it runs\n"))
        .file(file("volumes/info/known", 0o444, "known\n"))
        .onboot("fill", "echo filled > /data/from-init; ln -s /etc /data/out; echo inside > /data/sub-file")
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data", "rbind,rw,nodev")))
        .service(
            "writer",
            "test \"$(cat /data/runs 2>/dev/null | wc -l)\" -ge 2 || echo again >> /data/runs; exit 1",
        )
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data", "rbind,rw,nodev")))
        .service("escape", "echo escaped; sleep 1000")
        .with(|config| config.mounts.push(mount("/data", "bind", "/volumes/data/out", "rbind,rw,nodev")))
        .shell()
        .with(|config| {
            for (target, source, access) in [
                ("/data", "/volumes/data", "ro"),
                ("/file", "/volumes/data/sub-file", "rw"),
                ("/deep", "/volumes/data/made/deep", "rw"),
                ("/config", "/pod/volumes/config", "ro"),
                ("/one", "/pod/volumes/config/bin/run", "ro"),
                ("/info", "/volumes/info", "ro"),
            ] {
                config.mounts.push(mount(target, "bind", source, &format!("rbind,{access},nodev")));
            }
        });
    pod.boot.volumes = vec![
        VolumeBoot {
            name: "data".into(),
            kind: VolumeKind::EmptyDir { size_limit: Some(1 << 20), disk: None },
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
    let mut vm = Vm::boot(&pod);
    vm.says("writer: Error, exit code 1, to be started again in 10 s");
    vm.says("escape: StartError, exit code 128 (subPath out of volume data: leads out of the volume)");
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
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
    let variable = |name: &str, value| LateVariable { name: name.into(), value };
    let written = |text: &str| LateValue::Written(text.into());
    let mut pod = Pod::new()
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
    pod.boot.volumes =
        vec![VolumeBoot { name: "data".into(), kind: VolumeKind::EmptyDir { size_limit: None, disk: None } }];
    let env = vec![
        variable("EARLY", written("$(IP)")),
        variable("IP", LateValue::Instance(InstanceField::Ip)),
        variable("NAME", LateValue::Instance(InstanceField::Name)),
        variable("UID_OF_POD", LateValue::Instance(InstanceField::Uid)),
        variable("CPUS", LateValue::Instance(InstanceField::CpuMillis(1000))),
        variable("MIB", LateValue::Instance(InstanceField::MemoryBytes(1 << 20))),
        variable("FIXED", LateValue::Fixed("$(IP)".into())),
        variable("BOTH", written("manifest")),
        variable("URL", written("http://$(NAME).example/$$(IP)/$(IP)")),
    ];
    for service in &mut pod.boot.services {
        service.late = Some(LateEnvironment {
            env: env.clone(),
            expand_args: true,
            expand_mounts: vec!["/logs".into()],
        });
    }
    let mut vm = Vm::boot(&pod);
    vm.says("echo | http://test-1.example/$(IP)/10.0.2.15 $(URL) $(IMAGE)\n");
    let mut check = |command: &str, expected: &str| assert_eq!(vm.shell(command), expected, "{command}");
    check(
        "echo $EARLY $IP $NAME $CPUS $FIXED $IMAGE $BOTH",
        "$(IP) 10.0.2.15 test-1 1 $(IP) image manifest\n",
    );
    check("echo $URL; echo x > /logs/x; ls /logs", "http://test-1.example/$(IP)/10.0.2.15\nx\n");
    check("test \"$UID_OF_POD\" = \"$(cat /proc/sys/kernel/random/boot_id)\" && echo same", "same\n");
    check("test $MIB -gt 60 -a $MIB -le 128 && echo plausible", "plausible\n");
}

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
