//! Any bytes as a guest's answer to a request for its status, and as the status itself, which is written and read again the
//! same.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use i2kit::cloud::local::read_answer;
use i2kit_spec::status::{PodStatus, wait};

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    status(data);
    let mut reading = pin!(read_answer(data));
    let Poll::Ready(answer) = reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("bytes in memory are not waited for")
    };
    let Ok(answer) = answer else { return };
    assert!(answer.body.len() <= data.len());
    status(&answer.body);
}

fn status(document: &[u8]) {
    let Ok(status) = serde_json::from_slice::<PodStatus>(document) else { return };
    assert!(wait::is_tag(&status.tag()));
    let written = serde_json::to_vec(&status).expect("it has only string keys");
    assert_eq!(serde_json::from_slice::<PodStatus>(&written).expect("it reads what it writes"), status);
}
