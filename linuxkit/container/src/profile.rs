//! A profile's filter of system calls as a program for the kernel, with the meaning that libseccomp gives it.
//!
//! Calls that the kernel does not know by name are passed over. A rule without conditions comes before those with
//! conditions for the same call, and of these the first one that matches. A condition on an argument that has another
//! one in the same rule is a rule of its own, as in runc. Where the default refuses, calls newer than all that the profile
//! names do not exist (ENOSYS), so that programs fall back; calls of 32-bit programs never exist.

use std::collections::BTreeMap;

use i2kit_spec::Architecture;
use i2kit_spec::seccomp::{SeccompAction, SeccompArg, SeccompFilter, SeccompOp, SeccompRule};
use i2kit_sys::bpf::Instruction;

use crate::error::{Doing, Error};
use crate::seccomp::{ALLOW, FIRST_ARGUMENT, JUMP_EQUAL, JUMP_GREATER, LOAD, RETURN, prologue};
use crate::syscalls::{self, Calls};

/// Instructions that the default filter does without.
const JUMP: u16 = 0x05;
const JUMP_NOT_LESS: u16 = 0x35;
const AND: u16 = 0x54;

/// What follows the numbers of all calls that are not those of x32.
const X32: u32 = 0x4000_0000;

/// What a call gives when its conditions are met; there may be none.
type Outcome = (Vec<SeccompArg>, u32);

/// Installs the filter in the calling process.
pub(crate) fn install(filter: &SeccompFilter) -> Result<(), Error> {
    let calls = syscalls::of(Architecture::COMPILED);
    i2kit_sys::set_seccomp_filter(&program(calls, filter)).doing(|| "install the seccomp profile".into())
}

fn program(calls: &Calls, filter: &SeccompFilter) -> Vec<Instruction> {
    let otherwise = value(filter.default_action, filter.default_errno_ret);
    let outcomes = outcomes(calls, &filter.syscalls);
    let passes = matches!(filter.default_action, SeccompAction::Allow | SeccompAction::Log);
    let newest = outcomes.keys().next_back().copied().unwrap_or(syscalls::LAST);
    let last = if passes { X32 - 1 } else { newest };
    let mut out = prologue(calls, last).to_vec();
    for (number, outcomes) in outcomes {
        let block = block(&outcomes, otherwise);
        // Blocks may be longer than a conditional jump reaches.
        out.push(Instruction::new(JUMP_EQUAL, 1, 0, number));
        out.push(jump(block.len()));
        out.extend(block);
    }
    out.push(Instruction::new(RETURN, 0, 0, otherwise));
    out
}

/// What each call gives, in the order of the rules.
fn outcomes(calls: &Calls, rules: &[SeccompRule]) -> BTreeMap<u32, Vec<Outcome>> {
    let mut outcomes: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
    for rule in rules {
        let value = value(rule.action, rule.errno_ret);
        let repeated =
            |arg: &SeccompArg| rule.args.iter().filter(|other| other.index == arg.index).count() > 1;
        let alternatives: Vec<Vec<SeccompArg>> = if rule.args.iter().any(repeated) {
            rule.args.iter().map(|arg| vec![arg.clone()]).collect()
        } else {
            vec![rule.args.clone()]
        };
        for number in rule.names.iter().filter_map(|name| calls.number(name)) {
            let known = outcomes.entry(number).or_default();
            known.extend(alternatives.iter().map(|conditions| (conditions.clone(), value)));
        }
    }
    outcomes
}

/// What is done for one call.
fn block(outcomes: &[Outcome], otherwise: u32) -> Vec<Instruction> {
    let mut out = vec![];
    if let Some((_, value)) = outcomes.iter().find(|(conditions, _)| conditions.is_empty()) {
        return vec![Instruction::new(RETURN, 0, 0, *value)];
    }
    for (conditions, value) in outcomes {
        let tests: Vec<Vec<Instruction>> = conditions.iter().map(test).collect();
        // Each test is followed by the jump over the rest of the rule, which is taken when it fails.
        let mut left = tests.iter().map(|test| test.len() + 1).sum::<usize>() + 1;
        for test in tests {
            left -= test.len() + 1;
            out.extend(test);
            out.push(jump(left));
        }
        out.push(Instruction::new(RETURN, 0, 0, *value));
    }
    out.push(Instruction::new(RETURN, 0, 0, otherwise));
    out
}

fn jump(length: usize) -> Instruction {
    Instruction::new(
        JUMP,
        0,
        0,
        u32::try_from(length).expect("programs have at most some thousand instructions"),
    )
}

/// Tests an argument: goes on behind the instruction after it when the condition is met, else at that instruction.
fn test(arg: &SeccompArg) -> Vec<Instruction> {
    let offset = FIRST_ARGUMENT + 8 * u32::from(arg.index);
    // The halves of a number; machines of all architectures are little-endian, and the filter compares 32 bits at a time.
    let half = |number: u64| u32::try_from(number & 0xffff_ffff).expect("32 bits are left");
    let halves = |number: u64| (half(number >> 32), half(number));
    let (high, low) = halves(arg.value);
    let load = [Instruction::new(LOAD, 0, 0, offset + 4), Instruction::new(LOAD, 0, 0, offset)];
    let equal = |jump_true, jump_false, value| Instruction::new(JUMP_EQUAL, jump_true, jump_false, value);
    let greater = |jump_true, jump_false| Instruction::new(JUMP_GREATER, jump_true, jump_false, high);
    let last = |code, jump_true, jump_false| Instruction::new(code, jump_true, jump_false, low);
    match arg.op {
        SeccompOp::Equal => vec![load[0], equal(0, 2, high), load[1], equal(1, 0, low)],
        SeccompOp::NotEqual => vec![load[0], equal(0, 3, high), load[1], equal(0, 1, low)],
        SeccompOp::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(arg.value_two & arg.value);
            let and = |mask| Instruction::new(AND, 0, 0, mask);
            vec![load[0], and(high), equal(0, 3, wanted_high), load[1], and(low), equal(1, 0, wanted_low)]
        }
        SeccompOp::Greater | SeccompOp::GreaterOrEqual => {
            let code = if arg.op == SeccompOp::Greater { JUMP_GREATER } else { JUMP_NOT_LESS };
            vec![load[0], greater(4, 0), equal(0, 2, high), load[1], last(code, 1, 0)]
        }
        SeccompOp::LessOrEqual | SeccompOp::Less => {
            let code = if arg.op == SeccompOp::LessOrEqual { JUMP_GREATER } else { JUMP_NOT_LESS };
            vec![load[0], greater(3, 0), equal(0, 3, high), load[1], last(code, 0, 1)]
        }
    }
}

/// What the filter returns for an action.
fn value(action: SeccompAction, number: Option<u16>) -> u32 {
    let number = number.map_or(libc::EPERM.cast_unsigned(), u32::from);
    match action {
        SeccompAction::KillThread => 0,
        SeccompAction::KillProcess => 0x8000_0000,
        SeccompAction::Trap => 0x0003_0000,
        SeccompAction::Errno => 0x0005_0000 | number,
        SeccompAction::Trace => 0x7ff0_0000 | number,
        SeccompAction::Log => 0x7ffc_0000,
        SeccompAction::Allow => ALLOW,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::{ARCH, NUMBER, errno};

    const AMD64: &Calls = syscalls::of(Architecture::Amd64);

    /// What the program answers, by the meaning of its instructions.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut accumulator, mut at) = (0u32, 0usize);
        let word = |offset: u32| {
            let number = arguments[usize::try_from((offset - 16) / 8).unwrap()];
            let shifted = if offset % 8 == 4 { number >> 32 } else { number };
            u32::try_from(shifted & 0xffff_ffff).unwrap()
        };
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            let test = match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCH => arch,
                        _ => word(k),
                    };
                    continue;
                }
                AND => {
                    accumulator &= k;
                    continue;
                }
                JUMP => {
                    at += usize::try_from(k).unwrap();
                    continue;
                }
                RETURN => return k,
                JUMP_EQUAL => accumulator == k,
                JUMP_GREATER => accumulator > k,
                JUMP_NOT_LESS => accumulator >= k,
                other => panic!("no instruction has code {other}"),
            };
            at += usize::from(if test { jump_true } else { jump_false });
        }
    }

    fn holds(arg: &SeccompArg, arguments: [u64; 6]) -> bool {
        let actual = arguments[usize::from(arg.index)];
        match arg.op {
            SeccompOp::NotEqual => actual != arg.value,
            SeccompOp::Less => actual < arg.value,
            SeccompOp::LessOrEqual => actual <= arg.value,
            SeccompOp::Equal => actual == arg.value,
            SeccompOp::GreaterOrEqual => actual >= arg.value,
            SeccompOp::Greater => actual > arg.value,
            SeccompOp::MaskedEqual => actual & arg.value == arg.value_two & arg.value,
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        // Numbers that share halves, so that comparisons are near.
        (0..3u64, 0..3u64).prop_map(|(high, low)| (high << 32) | low)
    }

    fn condition() -> impl Strategy<Value = SeccompArg> {
        use SeccompOp::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual};
        let ops = [Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual];
        (0..6u8, number(), number(), proptest::sample::select(ops.to_vec()))
            .prop_map(|(index, value, value_two, op)| SeccompArg { index, value, value_two, op })
    }

    proptest! {
        #[test]
        fn a_rule_means_what_its_conditions_say(
            args in proptest::collection::vec(condition(), 0..4), arguments in proptest::array::uniform6(number())
        ) {
            let repeated = args.iter().any(|arg| args.iter().filter(|other| other.index == arg.index).count() > 1);
            let met = if repeated { args.iter().any(|arg| holds(arg, arguments)) }
                else { args.iter().all(|arg| holds(arg, arguments)) };
            let rule = SeccompRule { names: vec!["dup".into(), "no_such_call".into()], action: SeccompAction::Errno, errno_ret: Some(13), args };
            let filter = SeccompFilter { default_action: SeccompAction::Allow, default_errno_ret: None, syscalls: vec![rule] };
            let answer = run(&program(AMD64, &filter), AMD64.audit, 32, arguments);
            prop_assert_eq!(answer, if met { errno(13) } else { ALLOW });
            prop_assert_eq!(run(&program(AMD64, &filter), AMD64.audit, 33, arguments), ALLOW);
        }
    }

    #[test]
    fn a_default_that_refuses_leaves_newer_calls_unknown() {
        let rule = |name: &str, args| SeccompRule {
            names: vec![name.into()],
            action: SeccompAction::Allow,
            errno_ret: None,
            args,
        };
        let one = SeccompArg { index: 0, value: 1, value_two: 0, op: SeccompOp::Equal };
        let filter = SeccompFilter {
            default_action: SeccompAction::Errno,
            default_errno_ret: None,
            syscalls: vec![rule("dup", vec![one]), rule("read", vec![]), rule("dup3", vec![])],
        };
        let answer =
            |arch, number, first| run(&program(AMD64, &filter), arch, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(answer(AMD64.audit, 0, 9), ALLOW);
        assert_eq!(answer(AMD64.audit, 32, 1), ALLOW);
        assert_eq!(answer(AMD64.audit, 32, 1 << 32), errno(libc::EPERM));
        assert_eq!(answer(AMD64.audit, 33, 1), errno(libc::EPERM));
        assert_eq!(answer(AMD64.audit, 293, 1), errno(libc::ENOSYS));
        assert_eq!(answer(AMD64.audit, X32, 1), errno(libc::ENOSYS));
        assert_eq!(answer(0x4000_0003, 0, 1), errno(libc::ENOSYS));
    }

    #[test]
    fn all_calls_with_conditions_fit_the_kernel() {
        let one = |index| SeccompArg { index, value: 1, value_two: 0, op: SeccompOp::Equal };
        let names = (0..=syscalls::LAST)
            .filter_map(|number| AMD64.name(number))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert!(names.len() > 350);
        let rule = SeccompRule { names, action: SeccompAction::Allow, errno_ret: None, args: vec![one(0)] };
        let filter = SeccompFilter {
            default_action: SeccompAction::Errno,
            default_errno_ret: None,
            syscalls: vec![rule],
        };
        assert!(program(AMD64, &filter).len() <= 4096);
    }
}
