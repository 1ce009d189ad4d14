//! Requests that mean harm, and clients that take their time.

use super::*;

#[tokio::test]
async fn requests_that_two_servers_may_read_in_two_ways_are_refused_or_become_one() {
    let bed = Bed::new(front(&[mirror().await]));
    for (request, wanted) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "400"),
        ("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET /a%2f%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", "400"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ] {
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answer = bed.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted}")), "{request:?}: {answer}");
    }
    // Both lengths: the chunks count (RFC 9112, 6.3), the server sees them alone, and what follows is no request.
    for order in
        ["Content-Length: 6\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 6"]
    {
        let smuggled = format!(
            "POST /one HTTP/1.1\r\nHost: a\r\n{order}\r\n\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        let answer = bed.raw(&smuggled).await;
        assert!(answer.contains("POST /one") && answer.contains("body of 0"), "{answer}");
        assert!(!answer.contains("content-length: 6") && !answer.contains("/two"), "{answer}");
    }
}

#[tokio::test]
async fn heads_have_a_bound() {
    let bed = Bed::new(front(&[mirror().await]));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(200_000));
    for request in [long, many, target] {
        let answer = bed.raw(&request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{}",
            &answer[..answer.len().min(200)]
        );
    }
    assert_eq!(bed.get("/").await.0, StatusCode::OK);
}

/// Bytes at random, and good requests with bytes changed at random: the proxy answers others as before.
#[tokio::test]
async fn a_thousand_seeds_of_nonsense_hurt_nobody() {
    let bed = Bed::new(front(&[mirror().await]));
    let good = b"POST /a/b?c HTTP/1.1\r\nHost: web.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for seed in 0..1000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes = good.to_vec();
        for _ in 0..=(next() % 8) {
            let place = usize::try_from(next()).unwrap_or(0) % bytes.len();
            bytes[place] = u8::try_from(next() % 256).unwrap();
        }
        if seed % 4 == 0 {
            bytes = (0..next() % 300).map(|_| u8::try_from(next() % 256).unwrap()).collect();
        }
        let mut stream = bed.connect().await;
        drop(stream.write_all(&bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut answer)).await);
        if seed % 100 == 0 {
            assert_eq!(bed.get("/").await.0, StatusCode::OK, "seed {seed}");
        }
    }
    assert_eq!(bed.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn silent_clients_are_closed_and_slow_ones_served() {
    let quick = Silences { head: 1, between: 1, within: 3, ..SILENCES };
    let bed = Bed::with(front(&[mirror().await]), quick);
    let mut silent = bed.connect().await;
    let mut kept = bed.connect().await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut stuck = bed.connect().await;
    stuck.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab").await.unwrap();
    // One byte at a time, for longer than each of them may be silent.
    let mut slow = bed.connect().await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\nConnection: close\r\n\r\n";
    slow.write_all(head).await.unwrap();
    for byte in b"12345678" {
        tokio::time::sleep(Duration::from_millis(600)).await;
        slow.write_all(&[*byte]).await.unwrap();
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("body of 8"), "{answer}");
    // A head without an end is none, however often a byte of it comes.
    let mut crawling = bed.connect().await;
    crawling.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    let mut written = 0;
    while written < 100 && crawling.write_all(b"y").await.is_ok() {
        written += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(written < 100, "it is closed");
    for stream in [&mut silent, &mut kept, &mut stuck] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is closed");
    }
}

#[tokio::test]
async fn pings_keep_no_connection_open() {
    let quick = Silences { head: 1, between: 1, within: 3, ..SILENCES };
    let bed = Bed::with(front(&[mirror().await]), quick);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(200))
        .keep_alive_while_idle(true);
    let (mut sender, driver) = builder.handshake(TokioIo::new(bed.connect().await)).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = Request::get("http://web.test/x").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    drop(tokio::time::timeout(Duration::from_secs(10), driver).await.expect("it is closed"));
}

#[tokio::test]
async fn more_clients_than_there_is_room_for_wait() {
    let front = front(&[named("in").await]);
    let server = Server::with(4, Arc::new(Unkept), Silences { head: 1, ..SILENCES });
    let mut bed = Bed { server, wanted: Wanted::default() };
    bed.serve(front);
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(bed.connect().await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let warnings = bed.server.report().warnings;
    assert!(warnings["test"][0].contains("4 clients, as many as it may"), "{warnings:?}");
    // The crowd says nothing, and goes.
    let waited = tokio::time::timeout(Duration::from_secs(30), bed.get("/")).await.unwrap();
    assert_eq!(waited.1, "in");
}
