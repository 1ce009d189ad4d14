//! The cases: what a container becomes, seen from inside it and by its end.

use std::os::fd::AsFd as _;

use i2kit_container::{START_FAILED, execute, execute_attached, start_pause, users};
use i2kit_spec::Seccomp;
use i2kit_spec::control::Open;
use i2kit_spec::runtime::Mount;
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;

use crate::world::{World, ended, finished, read, rights_while_it_runs, runs};

/// What is done in a world of its own.
pub(crate) type Case = fn(&mut World);

/// All cases by name.
pub(crate) const ALL: &[(&str, Case)] = &[
    ("output_and_exit_code_are_the_programs", output_and_exit_code_are_the_programs),
    ("the_root_is_made_of_the_layers", the_root_is_made_of_the_layers),
    (
        "what_is_mounted_below_a_read_only_source_is_read_only",
        what_is_mounted_below_a_read_only_source_is_read_only,
    ),
    ("a_second_run_starts_afresh", a_second_run_starts_afresh),
    ("the_user_is_the_images", the_user_is_the_images),
    ("rights_are_those_of_the_configuration", rights_are_those_of_the_configuration),
    ("the_filter_refuses_calls_that_reach_the_machine", the_filter_refuses_calls_that_reach_the_machine),
    ("devices_of_the_machine_are_refused", devices_of_the_machine_are_refused),
    ("the_reason_of_a_failed_start_is_given", the_reason_of_a_failed_start_is_given),
    ("commands_run_beside_the_program", commands_run_beside_the_program),
    (
        "a_command_on_its_way_has_no_more_rights_than_its_container",
        a_command_on_its_way_has_no_more_rights_than_its_container,
    ),
    (
        "the_first_process_of_a_shared_namespace_has_nothing_to_give",
        the_first_process_of_a_shared_namespace_has_nothing_to_give,
    ),
    ("a_command_has_a_process_group_of_its_own", a_command_has_a_process_group_of_its_own),
    ("a_command_has_a_terminal_of_the_container", a_command_has_a_terminal_of_the_container),
    ("root_of_a_user_namespace_is_nobody_outside", root_of_a_user_namespace_is_nobody_outside),
];

const RIGHTS: &str = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status";

fn output_and_exit_code_are_the_programs(world: &mut World) {
    let outcome = world.run(&world.shell("echo out; echo error >&2; exit 7"));
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (7, "out\n", "error\n"));
    assert_eq!(outcome.failure, "");
    let started = world.start(&world.shell("sleep 1000"));
    runs(&started);
    rustix::process::pidfd_send_signal(&started.pidfd, Signal::KILL).unwrap();
    assert_eq!(ended(started).code, 137);
}

fn the_root_is_made_of_the_layers(world: &mut World) {
    assert_eq!(world.says(|_| {}, "ls /; cat /www/index.html"), "bin\ndev\netc\nproc\nwww\nfrom the top\n");
    assert_eq!(
        world.says(|_| {}, "cat /etc/hosts /etc/resolv.conf"),
        "127.0.0.1\tlocalhost\nnameserver 192.0.2.1\n"
    );
    assert_eq!(
        world.says(|_| {}, "echo $$; grep ^0: /proc/self/cgroup; echo $HOSTNAME"),
        "1\n0::/\ntest-1\n"
    );
    let refused = world.says(
        |spec| spec.config.root.readonly = true,
        "echo x > /www/x; echo x > /proc/sys/vm/swappiness; echo x > /dev/shm/x && cat /dev/shm/x",
    );
    assert_eq!(refused, "x\n");
    assert_eq!(world.says(|_| {}, "cat /proc/kcore; head -c 2 /dev/zero | tr '\\0' z"), "zz");
    let outside =
        world.says(|_| {}, "ls /run/i2kit /sys/fs/cgroup /layers 2>/dev/null; readlink /proc/1/root");
    assert_eq!(outside, "/\n");
}

fn what_is_mounted_below_a_read_only_source_is_read_only(world: &mut World) {
    // As a volume of several sources has another one below it.
    std::fs::create_dir_all("/run/source/below").unwrap();
    mount("tmpfs", "/run/source/below", "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write("/run/source/below/kept", "kept\n").unwrap();
    let script = "echo x > /m/x; echo x > /m/below/x; echo x > /m/below/kept; cat /m/below/kept";
    for (options, wanted) in [(["rbind", "ro"], "kept\n"), (["rbind", "rw"], "x\n")] {
        let bind = Mount {
            destination: "/m".into(),
            kind: "bind".into(),
            source: "/run/source".into(),
            options: options.map(Into::into).into(),
        };
        let said = world.says(|spec| spec.config.mounts.push(bind), script);
        assert_eq!(said, wanted, "{options:?}");
        assert_eq!(std::fs::exists("/run/source/below/x").unwrap(), options[1] == "rw");
    }
}

fn a_second_run_starts_afresh(world: &mut World) {
    let script = "ls /marker 2>/dev/null; echo x > /marker; echo last words > /dev/termination-log";
    assert_eq!(world.says(|_| {}, script), "");
    assert_eq!(i2kit_container::pod_files::termination_message("web"), "last words");
    assert_eq!(world.says(|_| {}, script), "");
}

fn the_user_is_the_images(world: &mut World) {
    let by_name = world.says(|spec| spec.boot.user = "web".into(), "id; echo $HOME; stat -Lc %u /dev/stdout");
    assert_eq!(by_name, "uid=33(web) gid=33(web) groups=4(log)\n/www\n33\n");
    let by_number = world.says(|spec| spec.boot.user = "1000:2000".into(), "id");
    assert_eq!(by_number, "uid=1000 gid=2000\n");
}

fn rights_are_those_of_the_configuration(world: &mut World) {
    let default = "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(world.says(|_| {}, RIGHTS), default);
    let none = world.says(
        |spec| {
            spec.boot.user = "web".into();
            spec.config.process.no_new_privileges = true;
            spec.config.process.capabilities.bounding = vec!["CAP_NET_BIND_SERVICE".into()];
            spec.config.process.capabilities.permitted.clear();
            spec.config.process.capabilities.effective.clear();
        },
        RIGHTS,
    );
    assert_eq!(none, "CapEff:\t0000000000000000\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n");
}

fn the_filter_refuses_calls_that_reach_the_machine(world: &mut World) {
    // User namespaces need no capability: it is the filter that refuses.
    let refused = world.run(&world.shell("unshare -U true"));
    assert_eq!(refused.stderr, "unshare: unshare(0x10000000): Operation not permitted\n");
    assert_eq!(refused.code, 1);
    let unconfined = |spec: &mut i2kit_container::Spec| spec.boot.seccomp = Seccomp::Unconfined;
    assert_eq!(world.says(unconfined, "grep Seccomp: /proc/self/status"), "Seccomp:\t0\n");
}

fn devices_of_the_machine_are_refused(world: &mut World) {
    let outcome = world.run(&world.shell("mknod /dev/disk b 254 0 && head -c 1 /dev/disk"));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, "head: /dev/disk: Operation not permitted\n"));
}

fn the_reason_of_a_failed_start_is_given(world: &mut World) {
    let failure = |change: &dyn Fn(&mut i2kit_container::Spec)| {
        let mut spec = world.shell("exit 0");
        change(&mut spec);
        let outcome = world.run(&spec);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (START_FAILED, ""));
        outcome.failure
    };
    assert_eq!(
        failure(&|spec| spec.config.process.args = vec!["ngnix".into()]),
        "\"ngnix\" is not found in PATH=/bin"
    );
    assert_eq!(
        failure(&|spec| spec.boot.user = "nobody".into()),
        "user \"nobody\" is not in the container's /etc/passwd"
    );
    assert_eq!(
        failure(&|spec| spec.boot.run_as_non_root = true),
        "user \"\" is root, which runAsNonRoot forbids"
    );
    assert!(failure(&|spec| spec.boot.user = "4294967295".into()).contains("from 0 to 2147483647"));
}

fn a_command_has_a_process_group_of_its_own(world: &mut World) {
    let spec = world.shell("echo up; exec sleep 1000");
    let started = world.start(&spec);
    runs(&started);
    let command = ["sh", "-c", "trap '' TERM; kill -TERM 0; echo on; exit 3"].map(Into::into);
    let run = execute(&spec, &world.sandbox, started.pidfd.as_fd(), &command).unwrap();
    assert_eq!(finished(run), (3, "on\n".into()));
}

fn commands_run_beside_the_program(world: &mut World) {
    let mut spec = world.shell("echo mine > /dev/shm/x; echo up; exec sleep 1000");
    spec.boot.user = "web".into();
    let started = world.start(&spec);
    runs(&started);
    let run = |script: &str| {
        let command = ["sh", "-c", script].map(Into::into);
        finished(execute(&spec, &world.sandbox, started.pidfd.as_fd(), &command).unwrap())
    };
    // The program may not have come so far yet.
    assert_eq!(
        run("until cat /dev/shm/x 2>/dev/null; do sleep 0.1; done; id -u; exit 5"),
        (5, "mine\n33\n".into())
    );
    assert_eq!(
        run("until grep -q sleep /proc/1/comm; do sleep 0.1; done; cat /proc/1/comm; grep -E '^(CapEff|Seccomp):' /proc/self/status").1,
        "sleep\nCapEff:\t0000000000000000\nSeccomp:\t2\n"
    );
    assert_eq!(run("exec no-such-program").0, 127);
    // Nothing that PID 1 has open is open in a command.
    assert_eq!(run("ls /proc/self/fd | grep -vE '^[0123]$'").1, "");
}

fn a_command_on_its_way_has_no_more_rights_than_its_container(world: &mut World) {
    let mut spec = world.shell("exec sleep 1000");
    let_it_trace(&mut spec);
    let started = world.start(&spec);
    runs(&started);
    let command = ["sh", "-c", ":"].map(Into::into);
    let mut processes = 0;
    for _ in 0..20 {
        let running = execute(&spec, &world.sandbox, started.pidfd.as_fd(), &command).unwrap();
        let mut seen = rights_while_it_runs(running);
        seen.remove(&started.pid.as_raw_nonzero().get());
        for (process, rights) in &seen {
            let own = "00000000a80c25fb 00000000a80c25fb 2";
            assert!(rights.iter().all(|rights| rights == own), "{process}: {rights:?}");
        }
        processes += seen.len();
    }
    assert!(processes > 0, "no command was seen inside the container");
}

fn the_first_process_of_a_shared_namespace_has_nothing_to_give(world: &mut World) {
    world.sandbox.pause = Some(start_pause().unwrap());
    // With this capability the container may look at any process that it sees. The names of its files end at its own root.
    let script = "ls -A /proc/1/root/; readlink /proc/1/fd/0; \
                  grep -E '^(Uid|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status";
    let none = "0000000000000000";
    assert_eq!(
        world.says(let_it_trace, script),
        format!(
            "/null\nUid:\t65534\t65534\t65534\t65534\nCapPrm:\t{none}\nCapBnd:\t{none}\n\
             NoNewPrivs:\t1\nSeccomp:\t2\n"
        )
    );
}

fn let_it_trace(spec: &mut i2kit_container::Spec) {
    let all = &mut spec.config.process.capabilities;
    for set in [&mut all.bounding, &mut all.effective, &mut all.permitted] {
        set.push("CAP_SYS_PTRACE".into());
    }
}

fn a_command_has_a_terminal_of_the_container(world: &mut World) {
    let spec = world.shell("exec sleep 1000");
    let started = world.start(&spec);
    runs(&started);
    let open = Open {
        command: ["sh", "-c", "tty; echo $TERM"].map(Into::into).into(),
        terminal: true,
        ..Open::default()
    };
    let attached =
        execute_attached(&spec, &world.sandbox, (started.pid, started.pidfd.as_fd()), &open).unwrap();
    assert_eq!(read(&attached.terminal.unwrap()), "/dev/pts/0\r\nxterm\r\n");
}

fn root_of_a_user_namespace_is_nobody_outside(world: &mut World) {
    world.sandbox.users = Some(users::make().unwrap());
    let mut spec = world
        .shell("id -u; tr -s ' ' < /proc/self/uid_map; stat -c %u /www /dev; echo x > /x; stat -c %u /x");
    for layer in &mut spec.layers {
        *layer = users::shift_layer("/run/u", layer, world.sandbox.users.as_ref().unwrap().as_fd()).unwrap();
    }
    let outcome = world.run(&spec);
    assert_eq!((outcome.code, outcome.failure.as_str()), (0, ""), "{outcome:?}");
    assert_eq!(outcome.stdout, "0\n 0 65536 65536\n0\n0\n0\n");
    spec.boot.user = "100000".into();
    let outcome = world.run(&spec);
    assert_eq!(
        outcome.failure,
        "100000 is no number of a user or a group in a pod with hostUsers: false: these are from 0 to 65535"
    );
}
