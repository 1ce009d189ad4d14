//! A client of the pod's socket, with PID 1's part played by the test.

use std::sync::mpsc::channel;

use super::*;
use crate::mutations::survive;

/// A client's end of a connection that is served, what it asks, and where replies to it go.
fn served() -> (UnixStream, Receiver<Ask>, Sender<Reply>, Link) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (sender, asks) = channel();
    let (replies, inbox) = channel();
    let (bell, ringer) = Link::pair().unwrap();
    spawn(theirs, Outbox::new(7, sender, Link::over(ringer)), inbox).unwrap();
    (ours, asks, replies, bell)
}

fn ask(mut client: &UnixStream, request: &PodRequest) {
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    client.write_all(&line).unwrap();
}

fn read_answer(mut client: &UnixStream) -> PodAnswer {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap()
}

/// A frame of the program's output; none at its end.
fn read_frame(mut client: &UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    client.read_exact(&mut bytes).unwrap();
    (!bytes.is_empty()).then_some(bytes)
}

#[test]
fn orders_go_to_pid_1_and_its_word_comes_back() {
    let names = || vec!["db".to_owned()];
    for (failure, expected) in
        [(None, PodAnswer::Done), (Some("no".to_owned()), PodAnswer::Refused("no".to_owned()))]
    {
        let (client, asks, replies, bell) = served();
        ask(&client, &PodRequest::Freeze { containers: names() });
        let asked = Ask::Order { id: 7, order: Order::Freeze, containers: names() };
        assert_eq!(asks.recv().unwrap(), asked);
        replies.send(Reply::Ordered(failure)).unwrap();
        assert_eq!(read_answer(&client), expected);
        assert_eq!(asks.recv().unwrap(), Ask::Gone { id: 7 });
        assert_eq!(bell.receive::<u64>().unwrap().0, 7);
    }
}

fn report() -> ReplicaReport {
    serde_json::from_str(
        r#"{"role":"leader","term":3,"leader":0,"hasQuorum":true,"recoveries":0,"divergedAt":7,"waitsFor":"more"}"#,
    )
    .unwrap()
}

#[test]
fn what_a_replica_says_of_itself_goes_to_the_loop() {
    let (client, asks, replies, _bell) = served();
    ask(&client, &PodRequest::Report { report: report() });
    assert_eq!(asks.recv().unwrap(), Ask::Report { id: 7, report: report() });
    replies.send(Reply::Ordered(None)).unwrap();
    assert_eq!(read_answer(&client), PodAnswer::Done);
}

#[test]
fn a_program_has_its_streams_and_its_exit_code() {
    let (mut client, asks, replies, _bell) = served();
    ask(
        &client,
        &PodRequest::Run { container: "db".into(), command: vec!["cat".into()], env: BTreeMap::new() },
    );
    assert!(matches!(asks.recv().unwrap(), Ask::Run { id: 7, .. }));
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    replies.send(Reply::Piped(Pipe::Input, child.stdin.take().unwrap().into())).unwrap();
    let output: OwnedFd = child.stdout.take().unwrap().into();
    rustix::io::ioctl_fionbio(&output, true).unwrap();
    replies.send(Reply::Piped(Pipe::Output, output)).unwrap();
    let mut program = Some(std::thread::spawn(move || child.wait().unwrap().success()));
    // More than a pipe and a piece hold.
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    let writer = {
        let (mut client, sent) = (client.try_clone().unwrap(), sent.clone());
        std::thread::spawn(move || {
            for part in sent.chunks(100_000) {
                client.write_all(&u32::try_from(part.len()).unwrap().to_be_bytes()).unwrap();
                client.write_all(part).unwrap();
            }
            client.write_all(&[0; 4]).unwrap();
        })
    };
    let mut came = Vec::new();
    while let Some(part) = read_frame(&client).filter(|_| came.len() < sent.len()) {
        came.extend(part);
        if came.len() == sent.len() {
            assert!(program.take().unwrap().join().unwrap());
            replies.send(Reply::Ran(3)).unwrap();
        }
    }
    writer.join().unwrap();
    assert!(came == sent, "{} of {} bytes", came.len(), sent.len());
    assert_eq!(read_answer(&client), PodAnswer::Exit(3));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_program_whose_client_goes_away_is_killed() {
    let (client, asks, replies, _bell) = served();
    ask(
        &client,
        &PodRequest::Run { container: "db".into(), command: vec!["x".into()], env: BTreeMap::new() },
    );
    assert!(matches!(asks.recv().unwrap(), Ask::Run { .. }));
    // A program that reads nothing and says nothing.
    let (read, write) = std::io::pipe().unwrap();
    let (silent, _held) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&silent, true).unwrap();
    replies.send(Reply::Piped(Pipe::Input, write.into())).unwrap();
    replies.send(Reply::Piped(Pipe::Output, silent.into())).unwrap();
    drop(client);
    assert_eq!(asks.recv().unwrap(), Ask::Kill { id: 7 });
    assert_eq!(asks.recv().unwrap(), Ask::Gone { id: 7 });
    drop(read);
}

#[test]
fn a_program_that_cannot_run_says_why() {
    let (client, asks, replies, _bell) = served();
    ask(&client, &PodRequest::Run { container: "db".into(), command: vec![], env: BTreeMap::new() });
    asks.recv().unwrap();
    replies.send(Reply::Ordered(Some("db does not run".into()))).unwrap();
    assert_eq!(read_answer(&client), PodAnswer::Refused("db does not run".into()));
}

#[test]
fn what_is_no_request_is_refused_and_bounded() {
    for line in [&b"{}\n"[..], b"\n", b"{\"do\":\"dance\"}\n", b"{\"do\":\"stop\",\"containers\":[1]}\n"] {
        let (mut client, asks, _replies, _bell) = served();
        client.write_all(line).unwrap();
        assert!(matches!(read_answer(&client), PodAnswer::Refused(_)));
        assert_eq!(asks.recv().unwrap(), Ask::Gone { id: 7 });
    }
    let endless = std::io::repeat(b'x');
    assert!(read_request(endless).unwrap().unwrap_err().contains("65536"));
    assert_eq!(read_request(&b"{\"do\""[..]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn changed_requests_and_frames_never_end_it() {
    let requests = [
        PodRequest::Stop { containers: vec!["db".into(), "side".into()] },
        PodRequest::Run {
            container: "db".into(),
            command: vec!["dump".into(), "-".into()],
            env: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        },
        PodRequest::Report { report: report() },
    ];
    let lines = requests.iter().map(|request| {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        line
    });
    let lines: Vec<Vec<u8>> = lines.collect();
    survive(&lines, 20_000, |bytes| drop(read_request(bytes)));
    for (line, request) in lines.iter().zip(&requests) {
        assert_eq!(read_request(&line[..]).unwrap().as_ref(), Ok(request));
    }
    let frames = [b"\0\0\0\x03abc\0\0\0\0".to_vec(), b"\0\0\0\x01a\0\0\0\x02bc\0\0\0\0".to_vec()];
    survive(&frames, 20_000, |bytes| {
        let mut written = Vec::new();
        let fed = feed(bytes, &mut written);
        assert!(written.len() <= bytes.len());
        drop(fed);
    });
    for bytes in &frames {
        let mut written = Vec::new();
        feed(&bytes[..], &mut written).unwrap();
        assert_eq!(written, b"abc");
    }
}
