//! Hooks under way: what is done when a container's program has started, and before it gets its stop signal. Counts the
//! time of pauses and of requests itself; commands and requests are its caller's to run.

use std::time::{Duration, Instant};

use i2kit_spec::{Hook, ProbeAction};
use i2kit_supervisor::link::When;
use i2kit_sys::clock;

use crate::container::Container;

/// How long a hook after the start may take. Kubernetes sets no limit, and a container whose hook never ends would be
/// neither up nor down; nothing that works comes near this.
const POST_START_LIMIT: Duration = Duration::from_hours(1);

/// The time between a container's stop signal and SIGKILL, however long its hook took: the kubelet's least grace.
pub(crate) const LEAST_GRACE: Duration = Duration::from_secs(2);

/// A hook under way.
#[derive(Debug)]
pub(crate) struct Running {
    number: u64,
    /// The container's index.
    pub(crate) container: usize,
    /// The run of the container.
    pub(crate) run: u64,
    pub(crate) when: When,
    /// When a pause is over, or the time of a request, which the supervisor makes and may not answer.
    until: Option<Instant>,
    /// Whether it is a pause, which has succeeded then.
    pause: bool,
}

/// What the caller has to do for a hook that was begun.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The container has no such hook.
    None,
    /// Nothing: it is a pause.
    Pause,
    /// Run the command within the limit, and end the hook of this number.
    Command { number: u64, command: Vec<String>, limit: Duration },
    /// Have the supervisor make the request of the hook within the limit, and end the hook of this number.
    Request { number: u64, limit: Duration },
}

/// All hooks under way.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    running: Vec<Running>,
    next: u64,
}

impl Hooks {
    /// Begins the hook of a container, if it has one.
    pub(crate) fn begin(&mut self, index: usize, container: &Container, when: When) -> Begun {
        let boot = &container.spec.boot;
        let hook = match when {
            When::PostStart => &boot.post_start,
            When::PreStop => &boot.pre_stop,
        };
        let Some(hook) = hook else { return Begun::None };
        let now = Instant::now();
        let limit = match when {
            When::PostStart => POST_START_LIMIT,
            When::PreStop => container
                .kill_at()
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(now).saturating_sub(LEAST_GRACE)),
        };
        let number = self.next;
        self.next += 1;
        let (until, begun) = match hook {
            Hook::Sleep { seconds } => {
                let pause = Duration::from(*seconds).min(limit);
                (Some(clock::after(now, pause)), Begun::Pause)
            }
            // Its caller kills it when its time is over.
            Hook::Handler(ProbeAction::Exec { command }) => {
                (None, Begun::Command { number, command: command.clone(), limit })
            }
            Hook::Handler(_) => (Some(clock::after(now, limit)), Begun::Request { number, limit }),
        };
        let pause = matches!(begun, Begun::Pause);
        self.running.push(Running { number, container: index, run: container.run, when, until, pause });
        begun
    }

    /// Ends the hook of this number.
    pub(crate) fn end(&mut self, number: u64) -> Option<Running> {
        let position = self.running.iter().position(|hook| hook.number == number)?;
        Some(self.running.remove(position))
    }

    /// The numbers of hooks whose time is over, and why they failed: pauses have not.
    pub(crate) fn over(&self, now: Instant) -> Vec<(u64, Option<String>)> {
        let over = self.running.iter().filter(|hook| hook.until.is_some_and(|until| until <= now));
        over.map(|hook| (hook.number, (!hook.pause).then(|| "no answer in time".into()))).collect()
    }

    /// The next time at which the time of a hook is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|hook| hook.until).min()
    }
}

#[cfg(test)]
mod tests {
    use i2kit_container::Spec;
    use i2kit_spec::{ContainerBoot, Seconds};

    use super::*;
    use crate::container::Role;

    fn container(hook: Hook) -> Container {
        let config = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["web"],
                "env": [],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": false,
            },
            "root": {"path": "rootfs"},
            "mounts": [],
            "linux": {"namespaces": []},
        });
        let boot = ContainerBoot { name: "web".into(), post_start: Some(hook), ..ContainerBoot::default() };
        Container::new(
            Spec { boot, config: serde_json::from_value(config).unwrap(), layers: vec![] },
            Role::Service,
        )
    }

    #[test]
    fn a_request_that_nobody_answers_fails_when_its_time_is_over() {
        let mut hooks = Hooks::default();
        let web = container(Hook::Handler(ProbeAction::Tcp { host: None, port: 80 }));
        let Begun::Request { number, limit } = hooks.begin(0, &web, When::PostStart) else { panic!() };
        let now = Instant::now();
        assert!(hooks.due().is_some_and(|due| due <= now + limit));
        assert!(hooks.over(now).is_empty());
        assert_eq!(hooks.over(now + limit), [(number, Some("no answer in time".into()))]);
        assert!(hooks.end(number).is_some() && hooks.due().is_none());
    }

    #[test]
    fn a_pause_succeeds_and_a_command_is_its_callers() {
        let mut hooks = Hooks::default();
        let pause = container(Hook::Sleep { seconds: Seconds(5) });
        assert!(matches!(hooks.begin(0, &pause, When::PostStart), Begun::Pause));
        assert_eq!(hooks.over(Instant::now() + Duration::from_secs(6)), [(0, None)]);
        assert!(hooks.end(0).is_some());
        let command = container(Hook::Handler(ProbeAction::Exec { command: vec!["true".into()] }));
        assert!(matches!(hooks.begin(0, &command, When::PostStart), Begun::Command { number: 1, .. }));
        assert_eq!(hooks.due(), None);
    }
}
