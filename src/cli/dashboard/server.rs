//! The server: connections and their limits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::listeners::Listeners;
use super::site::Site;

/// Connections at a time. A browser has six.
const CLIENTS: usize = 64;

/// The time for the head of a request, and between two requests.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is dropped.
pub(super) async fn serve(listeners: Listeners, site: Arc<Site>) {
    with(listeners, site, HEAD_TIME).await;
}

/// The same with another time for heads.
pub(super) async fn with(listeners: Listeners, site: Arc<Site>, head_time: Duration) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    loop {
        // One client waits here, the others in the kernel's queue.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(stream) = listeners.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (site, builder) = (Arc::clone(&site), builder.clone());
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, Infallible>(site.answer(request).await) }
            });
            // A client that goes away is no error.
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
