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

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_that_is_counted() {
    let server = backend(|mut request: Request<Incoming>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut stream);
            drop(tokio::io::copy(&mut read, &mut write).await);
        });
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, "Upgrade".parse().unwrap());
        response.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
        response
            .headers_mut()
            .insert("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".parse().unwrap());
        response
    })
    .await;
    let bed = Bed::new(front(&[server]));
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
    let head = answer.to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{answer}");
    assert!(head.contains("sec-websocket-accept: s3ppl"), "{answer}");
    for _ in 0..100 {
        stream.write_all(b"\x81\x02hi").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"\x81\x02hi");
    }
    assert_eq!(bed.server.report().active.values().sum::<u32>(), 1);
    drop(stream);
    while !bed.server.report().active.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
