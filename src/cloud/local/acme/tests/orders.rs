//! Orders that a CA has, or has no more, and what it was told of them already.

use super::*;

#[tokio::test]
async fn an_order_that_the_ca_has_no_more_is_placed_anew() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let page = |status| Reply(status, vec![], b"<html>".to_vec());
    for status in [404, 410, 200] {
        let mut record = Record::new(ca.want("a.i2kit.dev"));
        ca.play("pending", move |path| (path == "/authorization").then(|| page(503)));
        let failure = bed.attempt(&mut record).await.unwrap_err();
        record.fail(clock::wall(), failure);
        let order = record.order.clone().unwrap();
        // What is asked for beside the order says nothing about it.
        ca.play("pending", move |path| (path == "/nonce").then(|| page(404)));
        let failure = bed.attempt(&mut record).await.unwrap_err();
        record.fail(clock::wall(), failure);
        assert_eq!((record.order.as_ref(), ca.asked("/orders")), (Some(&order), 0), "{status}");
        let mut answer = Some(page(status));
        ca.play("pending", move |path| if path == "/order" { answer.take() } else { None });
        bed.attempt(&mut record).await.unwrap();
        assert_eq!((ca.asked("/orders"), record.issued.is_some()), (1, true), "{status}");
    }
    // One that is valid, and leads to no certificate.
    ca.play("valid", |path| {
        let state = json!({"status": "valid", "authorizations": [], "finalize": "https://127.0.0.1/"});
        (path == "/orders").then(|| Reply::json(&state).with("Location", "https://127.0.0.1/order"))
    });
    let failure = bed.attempt(&mut Record::new(ca.want("a.i2kit.dev"))).await.unwrap_err();
    assert!(failure.is_final && failure.reason.contains("where its certificate is"), "{failure:?}");
}

#[tokio::test]
async fn a_certificate_that_is_refused_for_its_time_is_looked_at_again() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let mut record = Record::new(ca.want("a.i2kit.dev"));
    let expired = |file: PathBuf| {
        move |path: &str| {
            if path != "/certificate" {
                return None;
            }
            let stored: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let chain = signed(&stored.want.host, &stored.order.unwrap().key.0, (2019, 2020));
            Some(Reply(200, vec![], chain.into_bytes()))
        }
    };
    ca.play("ready", expired(bed.file(&record.want)));
    let failure = bed.attempt(&mut record).await.unwrap_err();
    record.fail(clock::wall(), failure);
    let order = record.order.clone();
    assert!(order.is_some());
    // Not without end: it may have expired indeed.
    let mut late = record.clone();
    late.order.as_mut().unwrap().looks = 7;
    ca.play("valid", expired(bed.file(&record.want)));
    assert!(bed.attempt(&mut late).await.unwrap_err().is_final);
    assert_eq!(ca.asked("/orders"), 0);
    ca.play("valid", |_| None);
    bed.attempt(&mut record).await.unwrap();
    assert_eq!((ca.asked("/orders"), ca.asked("/certificate"), record.issued.is_some()), (0, 1, true));
}

#[tokio::test]
async fn what_a_killed_process_told_the_ca_is_not_told_again() {
    let bed = Bed::new();
    let ca = TestAuthority::start(&bed.home).await;
    let refusal = || {
        let problem = json!({"type": "urn:ietf:params:acme:error:malformed", "detail": "it is not pending"});
        Reply(400, vec![], problem.to_string().into())
    };
    // That comes between the look at the CA and the word to it.
    for (told, then) in [("/challenge", "ready"), ("/finalize", "valid")] {
        let status = ca.status();
        ca.play("pending", move |path| {
            let is_told = path == told;
            if is_told {
                *status.lock().unwrap() = then;
            }
            is_told.then(refusal)
        });
        let mut record = Record::new(ca.want("a.i2kit.dev"));
        bed.attempt(&mut record).await.unwrap();
        assert_eq!((ca.asked(told), record.issued.is_some()), (1, true), "{told}");
        // One that refuses, and goes on waiting for it.
        ca.play("pending", move |path| (path == told).then(refusal));
        let failure = bed.attempt(&mut Record::new(ca.want("a.i2kit.dev"))).await.unwrap_err();
        assert!(failure.is_final && failure.reason.contains("not pending"), "{told}: {failure:?}");
    }
}
