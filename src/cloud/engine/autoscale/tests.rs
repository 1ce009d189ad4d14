//! The scaler against the values of Kubernetes' documentation and of its controller's own rules.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cloud::engine::usage::{Capacity, Measured};
use crate::manifest::api::{Metric, MetricTarget, PolicyChange, Resource, ScalingPolicy, SelectPolicy};
use crate::plan::fleet::{InstanceUsage, Requests, ResourceUsage, ScalingMetric};

const MIB: u64 = 1 << 20;

fn metric(resource: Resource, target: MetricTarget, request: Option<u64>) -> ScalingMetric {
    ScalingMetric { metric: Metric { resource, container: None, target }, request }
}

/// Processor use at that share of 100m.
fn cpu(percent: u32) -> ScalingMetric {
    metric(Resource::Cpu, MetricTarget::Utilization(percent), Some(100))
}

fn scaling(metrics: Vec<ScalingMetric>) -> Scaling {
    Scaling { min: 1, max: 100, metrics, up: ScalingRules::default(), down: ScalingRules::default() }
}

fn at(steady: u64) -> Moment {
    Moment { steady, wall: steady + 1_700_000_000_000 }
}

/// A machine that has been ready for long and uses that at the time `now`.
fn pod(cpu_millis: u64, memory_bytes: u64, now: u64) -> Pod {
    let usage = ResourceUsage { cpu_millis, memory_bytes };
    let containers = [("web".to_owned(), usage)].into();
    Pod {
        started: 0,
        answered: true,
        ready: true,
        starting: false,
        since: 1000,
        capacity: Capacity { cpu_millis: 1000, memory_bytes: 128 * MIB },
        requests: BTreeMap::new(),
        measured: Some(Measured {
            at: now,
            usage: InstanceUsage { window_ms: 15_000, containers, machine: None },
        }),
    }
}

const LATER: u64 = 1_000_000;

/// The machines, of a revision that requests what the metrics have.
fn requesting(pods: &[Pod], metrics: &[ScalingMetric]) -> Vec<Pod> {
    let mut requests = Requests::default();
    for metric in metrics {
        match metric.metric.resource {
            Resource::Cpu => requests.cpu_millis = metric.request,
            Resource::Memory => requests.memory_bytes = metric.request,
        }
    }
    let requests: BTreeMap<String, Requests> = [("web".to_owned(), requests)].into();
    pods.iter().map(|pod| Pod { requests: requests.clone(), ..pod.clone() }).collect()
}

/// What metrics ask for, of machines of a revision that requests what they have.
fn recommended(scaling: &Scaling, replicas: u32, history: &mut History, pods: &[Pod]) -> Option<u32> {
    recommend(scaling, replicas, history, &requesting(pods, &scaling.metrics), LATER)
}

/// What metrics ask for, of machines that use so much of a processor each.
fn wanted(metric: &ScalingMetric, replicas: u32, pods: &[Pod]) -> Option<u32> {
    let mut history = History::default();
    recommended(&scaling(vec![metric.clone()]), replicas, &mut history, pods)
}

fn pods(cpu_millis: &[u64]) -> Vec<Pod> {
    cpu_millis.iter().map(|millis| pod(*millis, 10 * MIB, LATER)).collect()
}

#[test]
fn the_size_is_the_use_over_the_target_rounded_up() {
    // The documentation's own: 200m of 100m doubles the number, 50m halves it, and within a tenth nothing is done.
    let average = metric(Resource::Cpu, MetricTarget::AverageValue(100), None);
    assert_eq!(wanted(&average, 3, &pods(&[200, 200, 200])), Some(6));
    assert_eq!(wanted(&average, 4, &pods(&[50, 50, 50, 50])), Some(2));
    assert_eq!(wanted(&average, 2, &pods(&[110, 110])), Some(2));
    assert_eq!(wanted(&average, 2, &pods(&[90, 90])), Some(2));
    assert_eq!(wanted(&average, 2, &pods(&[111, 111])), Some(3));
    // Percent of the request, as a whole over all machines: 300, 500 and 700 of a thousand each at 30 %.
    let share = metric(Resource::Cpu, MetricTarget::Utilization(30), Some(1000));
    assert_eq!(wanted(&share, 3, &pods(&[300, 500, 700])), Some(5));
    assert_eq!(wanted(&cpu(50), 5, &pods(&[10, 30, 50, 30, 10])), Some(3));
    // In whole numbers: eleven machines, not twelve by an error of a floating point number.
    let precise = ScalingRules { tolerance_thousandths: Some(50), ..ScalingRules::default() };
    let scaling = Scaling { up: precise, ..scaling(vec![cpu(100)]) };
    let mut history = History::default();
    assert_eq!(recommended(&scaling, 10, &mut history, &pods(&[110; 10])), Some(11));
    // Without a request the share is of the whole machine.
    let bare = metric(Resource::Cpu, MetricTarget::Utilization(50), None);
    assert_eq!(wanted(&bare, 1, &pods(&[1000])), Some(2));
    let memory = metric(Resource::Memory, MetricTarget::AverageValue(5 * MIB), None);
    assert_eq!(wanted(&memory, 2, &pods(&[0, 0])), Some(4));
}

#[test]
fn each_machine_is_measured_against_the_request_of_its_own_revision() {
    // A rollout lowers the request from 1000m to 100m: the old machines use half of theirs all the same.
    let of = |requested: u64, used: u64| {
        let asked = metric(Resource::Cpu, MetricTarget::Utilization(80), Some(requested));
        requesting(&pods(&[used]), &[asked]).remove(0)
    };
    let newest = metric(Resource::Cpu, MetricTarget::Utilization(80), Some(100));
    let mut history = History::default();
    let mut wanted = |group: &[Pod]| recommend(&scaling(vec![newest.clone()]), 2, &mut history, group, LATER);
    assert_eq!(wanted(&[of(1000, 500), of(1000, 500)]), Some(2), "50 % of 80 %, and not 500 %");
    // 580 of 1100 are 52 %.
    assert_eq!(wanted(&[of(1000, 500), of(100, 80)]), Some(2));
    assert_eq!(wanted(&[of(100, 160), of(100, 160)]), Some(4));
}

#[test]
fn a_metric_of_one_container_is_of_that_alone() {
    let mut of_web = cpu(50);
    of_web.metric.container = Some("web".into());
    let mut both = pods(&[100]);
    if let Some(measured) = &mut both[0].measured {
        measured
            .usage
            .containers
            .insert("sidecar".into(), ResourceUsage { cpu_millis: 900, memory_bytes: 1 });
    }
    assert_eq!(wanted(&of_web, 1, &both), Some(2));
    assert_eq!(wanted(&cpu(50), 1, &both), Some(20));
    of_web.metric.container = Some("gone".into());
    assert_eq!(wanted(&of_web, 1, &both), None);
}

#[test]
fn machines_that_are_not_ready_count_as_idle_where_the_group_grows() {
    let unready = |pod: &Pod| Pod { started: LATER - 60_000, ready: false, starting: true, ..pod.clone() };
    let mut group = pods(&[300, 500, 700]);
    let share = metric(Resource::Cpu, MetricTarget::Utilization(30), Some(1000));
    // 500 and 700 of 2000 are 60 %; with an idle third 40 %: four and not six.
    group[0] = unready(&group[0]);
    assert_eq!(wanted(&share, 3, &group), Some(4));
    // Two that are not ready turn the direction: 700 of 3000 are less than 30 %.
    group[1] = unready(&group[1]);
    assert_eq!(wanted(&share, 3, &group), Some(3));
    // While it shrinks they are left out.
    let low = metric(Resource::Cpu, MetricTarget::Utilization(100), Some(1000));
    assert_eq!(wanted(&low, 3, &group), Some(1));
    // Memory is used whether a machine is ready or not, once its guest has answered.
    let memory = metric(Resource::Memory, MetricTarget::AverageValue(5 * MIB), None);
    assert_eq!(wanted(&memory, 3, &group), Some(6));
    group[2].answered = false;
    assert_eq!(wanted(&memory, 3, &group), Some(4), "20 MiB on three");
    // Nothing is known of any that is ready.
    assert_eq!(wanted(&share, 3, &group), None);
}

#[test]
fn what_a_machine_used_before_it_was_ready_does_not_count() {
    let mut young = pod(1000, MIB, LATER);
    (young.started, young.since) = (LATER - 60_000, LATER - 14_999);
    assert_eq!(wanted(&cpu(50), 1, &[young.clone()]), None, "its window began before");
    young.since = LATER - 15_000;
    assert_eq!(wanted(&cpu(50), 1, &[young.clone()]), Some(20));
    // After the first five minutes one that was ready counts although it is not, and one that never was does not.
    let mut old = Pod { ready: false, since: LATER - 1, ..pod(1000, MIB, LATER) };
    assert_eq!(wanted(&cpu(50), 1, &[old.clone()]), Some(20));
    old.since = 29_999;
    assert_eq!(wanted(&cpu(50), 1, &[old.clone()]), None, "it was given up within its first half minute");
    (old.since, old.starting) = (LATER - 1, true);
    assert_eq!(wanted(&cpu(50), 1, &[old]), None);
}

#[test]
fn what_is_not_measured_is_assumed_to_change_least() {
    let share = metric(Resource::Cpu, MetricTarget::Utilization(50), Some(100));
    let mut group = pods(&[100, 100, 0]);
    group[2].measured = None;
    // It grows: the third counts as idle. 200 of 300 are 66 %: 4.
    assert_eq!(wanted(&share, 3, &group), Some(4));
    // It shrinks: the third counts as using all of its request. 10, 10 and 100 are 40 %: 3.
    let mut group = pods(&[10, 10, 0]);
    group[2].measured = None;
    assert_eq!(wanted(&share, 3, &group), Some(3));
    // Of a target above the request it counts as using the target.
    let high = metric(Resource::Cpu, MetricTarget::Utilization(300), Some(100));
    assert_eq!(wanted(&high, 3, &group), Some(2), "320 of 900");
    let average = metric(Resource::Cpu, MetricTarget::AverageValue(50), None);
    assert_eq!(wanted(&average, 3, &group), Some(2), "70 of 150");
}

#[test]
fn of_several_metrics_the_largest_counts() {
    let memory = metric(Resource::Memory, MetricTarget::Utilization(50), Some(10 * MIB));
    let both = scaling(vec![cpu(50), memory.clone()]);
    let mut history = History::default();
    assert_eq!(recommended(&both, 2, &mut history, &pods(&[50, 50])), Some(4));
    assert_eq!(history.status.current, [Some(50), Some(100)]);
    // One that is not known keeps the group from shrinking, and not from growing.
    let mut gone = cpu(50);
    gone.metric.container = Some("gone".into());
    let with_gone = scaling(vec![gone, memory]);
    assert_eq!(recommended(&with_gone, 2, &mut history, &pods(&[50, 50])), Some(4));
    let idle: Vec<Pod> = (0..2).map(|_| pod(0, MIB, LATER)).collect();
    assert_eq!(recommended(&with_gone, 2, &mut history, &idle), None);
    assert!(history.status.failure.as_deref().is_some_and(|text| text.starts_with("cpu of gone")));
}

/// A group under its scaler, whose machines use what the load leaves to each.
struct Group {
    scaling: Scaling,
    replicas: u32,
    rescales: Vec<Rescale>,
    history: History,
    now: u64,
}

impl Group {
    fn new(scaling: Scaling, replicas: u32) -> Self {
        Self { scaling, replicas, rescales: vec![], history: History::default(), now: LATER }
    }

    /// One look, at machines that use so many thousandths of a processor each; the size after it.
    fn look(&mut self, millis: u64) -> u32 {
        assert!(self.history.is_due(self.now));
        let pods: Vec<Pod> = (0..self.replicas).map(|_| pod(millis, MIB, self.now)).collect();
        let pods = requesting(&pods, &self.scaling.metrics);
        let found =
            look(&self.scaling, self.replicas, &self.rescales, &mut self.history, &pods, at(self.now));
        if let Some(rescale) = found {
            assert_eq!(rescale.from, self.replicas);
            self.replicas = rescale.to;
            remember(&mut self.rescales, rescale);
        }
        assert!(!self.history.is_due(self.now + 14_999));
        self.now += 15_000;
        self.replicas
    }
}

fn rules(select: Option<SelectPolicy>, policies: &[(PolicyChange, u64)]) -> ScalingRules {
    let policy = |(change, seconds): &(PolicyChange, u64)| ScalingPolicy {
        change: *change,
        period_seconds: Seconds(*seconds),
    };
    ScalingRules {
        stabilization_window_seconds: Some(Seconds(0)),
        select_policy: select,
        policies: Some(policies.iter().map(policy).collect()),
        tolerance_thousandths: None,
    }
}

#[test]
fn by_default_it_grows_to_the_double_or_to_four_and_shrinks_after_five_minutes() {
    let mut three = Group::new(scaling(vec![cpu(50)]), 3);
    assert_eq!(three.look(1000), 6);
    // With rules of one direction the other one has its default policies: the double, or four more.
    let down = rules(None, &[(PolicyChange::Pods(1), 60)]);
    let mut ruled = Group::new(Scaling { down, ..scaling(vec![cpu(50)]) }, 1);
    assert_eq!([(); 2].map(|()| ruled.look(1000)), [5, 10]);
    let mut group = Group::new(scaling(vec![cpu(50)]), 1);
    assert_eq!([(); 6].map(|()| group.look(1000)), [4, 8, 16, 32, 64, 100]);
    assert_eq!(group.look(1000), 100, "maxReplicas");
    // From here on idle: it stays for the window, counted from the last recommendation of more.
    for second in (15..300).step_by(15) {
        assert_eq!(group.look(0), 100, "{second}");
    }
    assert_eq!(group.look(0), 1, "at once, as far as minReplicas");
    let last = group.rescales.last().unwrap();
    assert_eq!(last.to_string(), "scaled down from 100 to 1: cpu 0 % of 50 %");
    assert_eq!(group.rescales[0].to_string(), "scaled up from 1 to 4: cpu 1000 % of 50 %");
}

#[test]
fn policies_of_the_documentation_shrink_by_a_tenth_and_then_by_four() {
    // 80 machines: 8 in the first minute, 8 (7.2, rounded up) in the second, …, and 4 below 40.
    let policies = [(PolicyChange::Pods(4), 60), (PolicyChange::Percent(10), 60)];
    let down = rules(None, &policies);
    let mut group = Group::new(Scaling { min: 10, down, ..scaling(vec![cpu(50)]) }, 80);
    let mut minutes = vec![];
    for _ in 0..15 {
        minutes.push(group.look(0));
        let size = group.replicas;
        assert_eq!([(); 3].map(|()| group.look(0)), [size; 3], "the period is not over");
    }
    assert_eq!(minutes, [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10, 10]);
    for (select, expected) in [(SelectPolicy::Min, 76), (SelectPolicy::Max, 72), (SelectPolicy::Disabled, 80)]
    {
        let down = rules(Some(select), &policies);
        let mut group = Group::new(Scaling { down, ..scaling(vec![cpu(50)]) }, 80);
        assert_eq!(group.look(0), expected, "{select:?}");
    }
}

#[test]
fn policies_count_what_was_done_in_their_period_in_both_directions() {
    let up = rules(None, &[(PolicyChange::Pods(3), 120)]);
    let mut group = Group::new(
        Scaling {
            up: up.clone(),
            down: rules(None, &[(PolicyChange::Percent(100), 15)]),
            ..scaling(vec![cpu(50)])
        },
        4,
    );
    assert_eq!(group.look(1000), 7);
    assert_eq!(group.look(1000), 7, "three in two minutes");
    assert_eq!(group.look(25), 4);
    assert_eq!(group.look(1000), 7, "what was taken away counts for what may be added");
    // A process that was started anew has the policy's past from the record.
    let mut again = Group { history: History::default(), ..group };
    assert_eq!(again.look(1000), 7);
}

#[test]
fn a_window_holds_the_most_careful_recommendation_also_after_a_restart() {
    let slow = |seconds| ScalingRules {
        stabilization_window_seconds: Some(Seconds(seconds)),
        ..ScalingRules::default()
    };
    let scaling = Scaling { up: slow(60), down: slow(60), ..scaling(vec![cpu(50)]) };
    let mut group = Group::new(scaling, 2);
    assert_eq!([(); 4].map(|()| group.look(100)), [2; 4], "two were enough a minute ago");
    assert_eq!(group.look(100), 4);
    assert_eq!(group.look(10), 4);
    // The recommendations are gone with the process: it waits for a whole window again, in both directions.
    group.history = History::default();
    assert_eq!([(); 4].map(|()| group.look(10)), [4; 4]);
    assert_eq!(group.look(10), 1);
}

#[test]
fn bounds_come_first_and_none_turns_it_off() {
    let narrow = Scaling { min: 2, max: 3, ..scaling(vec![cpu(50)]) };
    let sizes = [(9, 3, "above maxReplicas"), (1, 2, "below minReplicas")];
    for (from, to, why) in sizes {
        let mut group = Group::new(narrow.clone(), from);
        assert_eq!(group.look(50), to);
        assert!(group.rescales[0].to_string().ends_with(why), "{}", group.rescales[0]);
    }
    let mut off = Group::new(narrow, 0);
    assert_eq!(off.look(1000), 0);
    assert!(off.rescales.is_empty());
}

#[test]
fn what_was_done_is_forgotten_in_time() {
    let mut rescales = vec![];
    for number in 0..400_u32 {
        let at = u64::from(number) * 15_000;
        remember(
            &mut rescales,
            Rescale { at, created: 0, from: number, to: number + 1, reason: String::new() },
        );
    }
    assert_eq!(rescales.len(), 120, "half an hour of looks");
    remember(&mut rescales, Rescale { at: 1 << 40, created: 0, from: 1, to: 2, reason: String::new() });
    assert_eq!(rescales.len(), RESCALES_KEPT);
}

fn any_target() -> impl Strategy<Value = MetricTarget> {
    prop_oneof![
        (1..1000_u32).prop_map(MetricTarget::Utilization),
        prop_oneof![0..2000_u64, Just(u64::MAX)].prop_map(MetricTarget::AverageValue),
    ]
}

fn any_metric() -> impl Strategy<Value = ScalingMetric> {
    let resource = prop_oneof![Just(Resource::Cpu), Just(Resource::Memory)];
    let request = proptest::option::of(prop_oneof![1..2000_u64, Just(u64::MAX)]);
    (resource, any_target(), request)
        .prop_map(|(resource, target, request)| metric(resource, target, request))
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let amount = prop_oneof![0..2000_u64, Just(u64::MAX)];
    let flags = proptest::array::uniform4(any::<bool>());
    (amount.clone(), amount, flags, 0..LATER).prop_map(|(cpu, memory, flags, since)| {
        let [answered, ready, starting, is_measured] = flags;
        let found = pod(cpu, memory, LATER);
        let measured = found.measured.clone().filter(|_| is_measured);
        Pod { answered, ready, starting, since, started: since / 2, measured, ..found }
    })
}

fn any_rules() -> impl Strategy<Value = ScalingRules> {
    let change = prop_oneof![
        (1..u32::MAX).prop_map(PolicyChange::Pods),
        (1..u32::MAX).prop_map(PolicyChange::Percent)
    ];
    let policies = proptest::collection::vec((change, 1..1800_u64), 1..4);
    let select = proptest::option::of(prop_oneof![
        Just(SelectPolicy::Max),
        Just(SelectPolicy::Min),
        Just(SelectPolicy::Disabled)
    ]);
    (select, policies, proptest::option::of(0..3600_u64), proptest::option::of(0..2000_u64)).prop_map(
        |(select, policies, window, tolerance)| ScalingRules {
            stabilization_window_seconds: window.map(Seconds),
            tolerance_thousandths: tolerance,
            ..rules(select, &policies)
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_measured_the_size_stays_within_its_bounds_and_policies(
        (min, more) in (1..50_u32, 0..1000_u32),
        metrics in proptest::collection::vec(any_metric(), 1..4),
        (up, down) in (any_rules(), any_rules()),
        pods in proptest::collection::vec(any_pod(), 0..20),
        mut replicas in 0..1200_u32,
        looks in 1..30_u64,
    ) {
        let scaling = Scaling { min, max: min + more, metrics, up, down };
        let pods = requesting(&pods, &scaling.metrics);
        let (mut history, mut rescales) = (History::default(), vec![]);
        for number in 0..looks {
            let now = LATER + number * 15_000;
            let found = look(&scaling, replicas, &rescales, &mut history, &pods, at(now));
            let Some(rescale) = found else { continue };
            prop_assert!(replicas > 0 && rescale.to != replicas && rescale.from == replicas);
            prop_assert!(scaling.allows(rescale.to), "{} of {}..{}", rescale.to, scaling.min, scaling.max);
            let was_within = scaling.allows(replicas);
            let rules = if rescale.to > replicas { &scaling.up } else { &scaling.down };
            prop_assert!(!was_within || rules.select_policy != Some(SelectPolicy::Disabled));
            replicas = rescale.to;
            remember(&mut rescales, rescale);
            prop_assert!(history.recommendations.len() <= RECOMMENDATIONS_KEPT && rescales.len() <= 121);
        }
    }
}
