//! `i2kit cp`: files to and from a container, as a tar stream that the container's own `tar` reads or writes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::args::CpArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::unpack::{CopyTarget, unpack};
use super::{connection, exec, named};
use crate::cloud::exec::{Command, Input, Output, Session};
use crate::cloud::{Cloud, CloudError};
use crate::report::{self, Events};

/// How many pieces of the stream may wait.
const PIECES: usize = 8;
/// Bytes of the complaints of tar in the container that are kept: they may have no end, and the first lines hold the reason.
const MAX_SAID: usize = 16 << 10;

/// One side of the copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// `-`: a tar stream on standard input or standard output, as `docker cp` has it.
    Stream,
    Here(&'a Path),
    There {
        name: &'a str,
        path: &'a str,
    },
}

impl<'a> Place<'a> {
    /// `NAME:PATH` is in a container; a path here that has a colon is written with `./` in front.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path)) if !name.is_empty() && !name.starts_with(['.', '/']) => {
                Self::There { name, path }
            }
            _ => Self::Here(Path::new(text)),
        }
    }
}

/// Copies.
pub(super) async fn run(context: &Context, args: &CpArgs) -> Result<Exit, Failure> {
    match (Place::parse(&args.from), Place::parse(&args.to)) {
        (Place::Here(from), Place::There { name, path }) => upload(context, args, from, (name, path)).await,
        (Place::There { name, path }, Place::Here(to)) => download(context, args, (name, path), to).await,
        (Place::Stream, Place::There { name, path }) => extract(context, args, (name, path)).await,
        (Place::There { name, path }, Place::Stream) => archive(context, args, (name, path)).await,
        _ => Err(usage(
            "one of the two places is in a container, written NAME:PATH, and the other one is here",
        )),
    }
}

fn usage(text: &str) -> Failure {
    Failure::new(Exit::Usage, anyhow::anyhow!("{text}"))
}

async fn tar(
    context: &Context,
    args: &CpArgs,
    name: &str,
    arguments: &[&str],
    input: bool,
) -> Result<Session, Failure> {
    let cloud = connection::cloud(context).await?;
    tar_in(cloud.as_ref(), &context.events, args, name, (arguments, input)).await
}

/// Begins a `tar` with these arguments in a container of the cloud, with or without input.
async fn tar_in(
    cloud: &dyn Cloud,
    events: &Events,
    args: &CpArgs,
    name: &str,
    (arguments, input): (&[&str], bool),
) -> Result<Session, Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let instance = named::running_with(&fleet, name, args.container.as_deref())?;
    let command = Command {
        container: args.container.clone(),
        command: [&["tar"], arguments].concat().into_iter().map(str::to_owned).collect(),
        input,
        terminal: None,
    };
    exec::begin(events, cloud, &instance.id, &command).await
}

/// What `tar` in the container ended with.
fn ended(code: i32, complaint: &[u8]) -> Result<(), Failure> {
    let complaint = String::from_utf8_lossy(complaint);
    let complaint = complaint.trim();
    match code {
        0 => Ok(()),
        127 => Err(Failure::new(
            Exit::Failure,
            anyhow::anyhow!("the container has no `tar`, which cp needs on its side ({complaint})"),
        )),
        code => Err(Failure::new(
            Exit::Failure,
            anyhow::anyhow!("tar in the container ended with exit code {code}: {complaint}"),
        )),
    }
}

/// Splits a path in a container into its folder and its last name.
fn split(path: &str) -> Result<(&str, &str), Failure> {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
    if name.is_empty() || name == "." || name == ".." {
        return Err(usage("the path in the container must end with a name"));
    }
    Ok((if folder.is_empty() { "/" } else { folder }, name))
}

async fn upload(
    context: &Context,
    args: &CpArgs,
    from: &Path,
    (name, path): (&str, &str),
) -> Result<Exit, Failure> {
    // `DIR/` keeps the file's own name; anything else is the new name.
    let own = from.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let (folder, new) = if path.ends_with('/') {
        let own = own.ok_or_else(|| usage("a path that ends with a name is needed to copy from"))?;
        (path.to_owned(), own)
    } else {
        let (folder, new) = split(path)?;
        (folder.to_owned(), new.to_owned())
    };
    if let Err(error) = std::fs::symlink_metadata(from) {
        return Err(Failure::new(Exit::NotFound, anyhow::anyhow!("cannot read {}: {error}", from.display())));
    }
    let Session { input, mut output } = tar(context, args, name, &["-xf", "-", "-C", &folder], true).await?;
    let from = from.to_owned();
    let packed = tokio::task::spawn_blocking(move || {
        let packed = pack(&from, &new, Sender(input.clone()));
        // Also when it failed: tar must come to its end.
        let _ = input.blocking_send(Input::End);
        packed
    });
    read_by_tar(&mut output).await?;
    packed.await.map_err(io::Error::other).and_then(|packed| packed).or_exit(Exit::Failure)?;
    Ok(Exit::Success)
}

/// Waits until `tar` in the container has read its input.
async fn read_by_tar(output: &mut BoxStream<'_, Result<Output, CloudError>>) -> Result<(), Failure> {
    let mut complaint = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            Output::Out(bytes) | Output::Err(bytes) => keep(&mut complaint, &bytes),
            Output::Unanswered => {}
            Output::Ended(ended) => code = Some(ended),
        }
    }
    ended(code.unwrap_or(255), &complaint)
}

/// Unpacks the tar stream on standard input into a folder of the container.
async fn extract(context: &Context, args: &CpArgs, (name, folder): (&str, &str)) -> Result<Exit, Failure> {
    let Session { input, mut output } = tar(context, args, name, &["-xf", "-", "-C", folder], true).await?;
    // Standard input cannot be waited for without a thread; it ends with the process.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let copied = io::copy(&mut io::stdin().lock(), &mut Sender(input.clone()));
        // Sent before the end of the stream: tar cannot finish with half a stream unnoticed.
        let _ = sender.send(copied);
        let _ = input.blocking_send(Input::End);
    });
    read_by_tar(&mut output).await?;
    match receiver.try_recv() {
        // tar stops reading at the end of the archive, whatever comes behind it.
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            let error = anyhow::Error::new(error).context("cannot read standard input");
            Err(Failure::new(Exit::Failure, error))
        }
        _ => Ok(Exit::Success),
    }
}

/// Writes a path of the container to standard output as the tar stream that its own `tar` makes.
async fn archive(context: &Context, args: &CpArgs, (name, path): (&str, &str)) -> Result<Exit, Failure> {
    let (folder, last) = split(path)?;
    let Session { input, mut output } =
        tar(context, args, name, &["-cf", "-", "-C", folder, last], false).await?;
    let mut complaint = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            // Nobody reads any more: the container's tar is left to end with the session.
            Output::Out(bytes) if !report::bytes(&bytes, false) => return Ok(Exit::Success),
            Output::Out(_) | Output::Unanswered => {}
            Output::Err(bytes) => keep(&mut complaint, &bytes),
            Output::Ended(ended) => code = Some(ended),
        }
    }
    drop(input);
    ended(code.unwrap_or(255), &complaint)?;
    Ok(Exit::Success)
}

fn pack(from: &Path, name: &str, to: Sender) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(64 * 1024, to));
    archive.follow_symlinks(false);
    if from.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_file(name, &mut File::open(from)?)?;
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error).map(drop)
}

async fn download(
    context: &Context,
    args: &CpArgs,
    (name, path): (&str, &str),
    to: &Path,
) -> Result<Exit, Failure> {
    let (folder, last) = split(path)?;
    let target = CopyTarget::new(to, last).or_exit(Exit::Failure)?;
    let Session { input, mut output } =
        tar(context, args, name, &["-cf", "-", "-C", folder, last], false).await?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let (last, events) = (last.to_owned(), context.events.clone());
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack(&last, &target, Receiver::new(receiver), &mut |left_out| events.warn(left_out))
    });
    let mut complaint = Vec::new();
    let mut code = None;
    let mut is_read_to_its_end = true;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            Output::Out(bytes) => {
                if sender.send(bytes).await.is_err() {
                    // The unpacking has ended; what the container sends now may have no end.
                    is_read_to_its_end = false;
                    break;
                }
            }
            Output::Unanswered => {}
            Output::Err(bytes) => keep(&mut complaint, &bytes),
            Output::Ended(ended) => code = Some(ended),
        }
    }
    drop((sender, input, output));
    let unpacked = unpacked.await.map_err(io::Error::other).and_then(|unpacked| unpacked);
    if is_read_to_its_end {
        // tar's reason is better than that the archive is cut.
        ended(code.unwrap_or(255), &complaint)?;
    }
    unpacked.or_exit(Exit::Failure)?;
    Ok(Exit::Success)
}

/// Adds to the complaints of tar, up to their bound.
fn keep(complaint: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_SAID.saturating_sub(complaint.len()).min(bytes.len());
    complaint.extend_from_slice(&bytes[..room]);
}

/// Input of the command as a writer, for a thread that may wait.
struct Sender(mpsc::Sender<Input>);

impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Input::Bytes(bytes.to_vec()));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Output of the command as a reader, for a thread that may wait.
struct Receiver {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Receiver {
    fn new(pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { pieces, piece: io::Cursor::default() }
    }
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.piece.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = io::Cursor::new(piece),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::test_cloud::{Late, recorded};

    #[test]
    fn places_are_told_apart() {
        assert_eq!(Place::parse("web:/etc/hosts"), Place::There { name: "web", path: "/etc/hosts" });
        assert_eq!(Place::parse("shop/web/1:x"), Place::There { name: "shop/web/1", path: "x" });
        assert_eq!(Place::parse("./a:b"), Place::Here(Path::new("./a:b")));
        assert_eq!(Place::parse("/a:b"), Place::Here(Path::new("/a:b")));
        assert_eq!(Place::parse("-"), Place::Stream);
        assert_eq!(split("/etc/hosts").ok(), Some(("/etc", "hosts")));
        assert_eq!(split("/hosts").ok(), Some(("/", "hosts")));
        assert_eq!(split("x").ok(), Some((".", "x")));
        assert!(split("/").is_err());
    }

    #[tokio::test]
    async fn a_guest_that_does_not_answer_is_a_warning_here_too() {
        let (events, said) = recorded();
        let cloud = Late::default();
        let args = CpArgs { from: "web:/x".into(), to: "x".into(), container: None };
        let session = tar_in(&cloud, &events, &args, "web", (&["-cf", "-", "x"], false)).await.unwrap();
        let Session { mut output, .. } = session;
        read_by_tar(&mut output).await.unwrap_err();
        let said = said.lock().unwrap().join("\n");
        assert!(said.starts_with("warning: the guest of web-1-abcde has not answered yet"), "{said}");
    }
}
