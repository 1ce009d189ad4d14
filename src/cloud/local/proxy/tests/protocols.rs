//! HTTP/1.1, HTTP/2, tunnels, trailers, bodies that come bit by bit.

use super::*;

#[tokio::test]
async fn bodies_pass_as_they_come_and_without_a_bound() {
    let bed = Bed::new(front(&[backend(|request: Request<Incoming>| async {
        // What comes goes back.
        Response::new(request.into_body().boxed())
    })
    .await]));
    let stream = TokioIo::new(bed.connect().await);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let (give, take) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, Infallible>>();
    let request = Request::post("/").header("host", "a").body(StreamBody::new(take)).unwrap();
    give.unbounded_send(Ok(Frame::data(Bytes::from_static(b"first")))).unwrap();
    let mut answer = sender.send_request(request).await.unwrap().into_body();
    // The first part is there before the second one is sent.
    let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"first");
    let (part, parts) = (Bytes::from(vec![7; 64 * 1024]), 512);
    for _ in 0..parts {
        give.unbounded_send(Ok(Frame::data(part.clone()))).unwrap();
    }
    drop(give);
    let mut length = 0;
    while let Some(frame) = answer.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|byte| *byte == 7));
        length += data.len();
    }
    assert_eq!(length, parts * part.len());
}

#[tokio::test]
async fn http2_without_tls_reaches_servers_of_http1_with_one_cookie_and_a_host() {
    let bed = Bed::new(front(&[mirror().await]));
    let stream = TokioIo::new(bed.connect().await);
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(driver);
    for _ in 0..3 {
        let request = Request::get("http://web.test/x").header("cookie", "a=1").header("cookie", "b=2");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        for expected in ["GET /x HTTP/1.1", "host: web.test", "cookie: a=1; b=2"] {
            assert!(body.contains(expected), "{body}");
        }
    }
    // Both say who is meant, and not the same.
    let request = Request::get("http://web.test/x").header("host", "other.test");
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

/// As gRPC has it: HTTP/2 all the way, `TE: trailers`, and the status in a trailer.
#[tokio::test]
async fn trailers_and_streams_of_grpc_pass_both_ways() {
    let server = backend(|request: Request<Incoming>| async move {
        assert_eq!(request.version(), hyper::Version::HTTP_2);
        assert_eq!(request.headers()[header::TE], "trailers");
        assert_eq!(request.uri().authority().unwrap(), "grpc.test");
        let body = request.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sent"], "1");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Frame::data(body.to_bytes()), Frame::trailers(trailers)].map(Ok::<_, hyper::Error>);
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        response
    })
    .await;
    let mut front = front(&[server]);
    front.pools[0].http2 = true;
    let bed = Bed::new(front);
    let stream = TokioIo::new(bed.connect().await);
    let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(driver);
    let calls = (0..20).map(|number| {
        let mut sender = sender.clone();
        async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sent", "1".parse().unwrap());
            let data = Bytes::from(vec![number; 200_000]);
            let frames = [Frame::data(data), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            let body = StreamBody::new(futures::stream::iter(frames));
            let request =
                Request::post("http://grpc.test/svc/Call").header("te", "trailers").body(body).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert!(body.to_bytes().iter().all(|byte| *byte == number));
        }
    });
    futures::future::join_all(calls).await;
}

/// A server that goes over to another protocol, and sends back what comes.
async fn echo() -> SocketAddr {
    backend(|mut request: Request<Incoming>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut stream);
            drop(tokio::io::copy(&mut read, &mut write).await);
        });
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await
}

/// A tunnel, and the head of the answer with the first echo.
async fn tunnel(bed: &Bed) -> (TcpStream, String) {
    let mut stream = bed.connect().await;
    let head = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nat once";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("at once") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    (stream, answer)
}

/// Whether what is sent comes back.
async fn passes(stream: &mut TcpStream) -> bool {
    let mut echo = [0; 4];
    stream.write_all(b"\x81\x02hi").await.is_ok()
        && stream.read_exact(&mut echo).await.is_ok()
        && &echo == b"\x81\x02hi"
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_that_is_counted() {
    let bed = Bed::new(front(&[echo().await]));
    let (mut stream, answer) = tunnel(&bed).await;
    let head = answer.to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{answer}");
    assert!(head.contains("sec-websocket-accept: s3ppl"), "{answer}");
    for _ in 0..100 {
        assert!(passes(&mut stream).await);
    }
    assert_eq!(bed.server.report().active.values().sum::<u32>(), 1);
    drop(stream);
    while !bed.server.report().active.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A tunnel is a client as others are: it has a place, a limit of silence, and time when the process leaves.
#[tokio::test]
async fn a_tunnel_keeps_the_place_of_its_connection_and_is_closed_when_it_is_silent() {
    let server = Server::with(
        4,
        Arc::new(Unkept),
        Silences { head: 9, between: 9, crowded: 9, within: 2, ..SILENCES },
    );
    let mut bed = Bed { server, wanted: Wanted::default() };
    bed.serve(front(&[echo().await]));
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(tunnel(&bed).await.0);
    }
    let fifth = tokio::time::timeout(Duration::from_millis(700), tunnel(&bed)).await;
    assert!(fifth.is_err(), "there is no room for a fifth one");
    // Three are silent; the first one is not.
    for _ in 0..12 {
        assert!(passes(&mut tunnels[0]).await);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for stream in &mut tunnels[1..] {
        assert!(!passes(stream).await, "it was silent for too long");
    }
    drop(tunnel(&bed).await);
    let server = Arc::clone(&bed.server);
    let leaving = tokio::spawn(async move { server.leave(Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(passes(&mut tunnels[0]).await && !leaving.is_finished());
    drop(tunnels);
    tokio::time::timeout(Duration::from_secs(10), leaving).await.expect("the last one has ended").unwrap();
}

/// Streams of HTTP/2 are requests of one client, and each takes a connection to a machine of HTTP/1.1.
#[tokio::test]
async fn requests_of_one_client_take_no_more_connections_than_there_is_room_for() {
    let answered = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&answered);
    let slow = backend(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            drop(gate.acquire().await);
            text("late")
        }
    })
    .await;
    let server = Server::with(8, Arc::new(Unkept), SILENCES);
    let mut bed = Bed { server, wanted: Wanted::default() };
    bed.serve(front(&[slow]));
    let stream = TokioIo::new(bed.connect().await);
    let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(driver);
    let requests: Vec<_> = (0..32)
        .map(|_| {
            let mut sender = sender.clone();
            let request = Request::get("http://web.test/x").body(Empty::<Bytes>::new()).unwrap();
            tokio::spawn(async move { sender.send_request(request).await.unwrap().status() })
        })
        .collect();
    while bed.server.report().warnings.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let warnings = bed.server.report().warnings;
    assert!(warnings["test"][0].contains("8 connections to machines"), "{warnings:?}");
    tokio::time::sleep(Duration::from_secs(8)).await;
    answered.add_permits(32);
    let mut refused = 0;
    for request in requests {
        refused += u32::from(request.await.unwrap() == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(refused, 24);
    assert_eq!(bed.get("/").await.1, "late");
}

#[tokio::test]
async fn connections_to_servers_are_kept() {
    let accepted = Arc::new(AtomicU32::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let service = service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(text("kept")) });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let bed = Bed::new(front(&[address]));
    for _ in 0..50 {
        assert_eq!(bed.get("/").await.1, "kept");
    }
    assert!(accepted.load(Ordering::Relaxed) < 5, "{accepted:?}");
}
