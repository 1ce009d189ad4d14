//! Unix sockets in folders of any depth: a socket's path may have at most 107 bytes, so it is named through a
//! descriptor of its folder instead.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A short path to the file `name` in `folder`, good for as long as the folder's descriptor is open.
fn short(folder: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let folder = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
    Ok((folder, path))
}

/// Connects to the socket `name` in `folder`.
pub(super) async fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let (_folder, path) = short(folder, name)?;
    UnixStream::connect(path).await
}

/// Listens on the socket `name` in `folder`, in the place of an older one.
pub(super) fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, path) = short(folder, name)?;
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_deep_folder_may_hold_a_socket() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for _ in 0..2 {
            let listener = listen(&deep, "s").unwrap();
            let (mut client, server) = tokio::join!(connect(&deep, "s"), listener.accept());
            client.as_mut().unwrap().write_all(b"hi").await.unwrap();
            let mut buffer = [0; 2];
            server.unwrap().0.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"hi");
        }
    }
}
