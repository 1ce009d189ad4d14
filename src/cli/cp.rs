//! `i2kit cp`: files to and from a container, as a tar stream that the container's own `tar` reads or writes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::args::CpArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{exec, named, pipeline};
use crate::cloud::CloudError;
use crate::cloud::exec::{Command, Input, Output, Session};
use crate::report;

/// How many pieces of the stream may wait.
const PIECES: usize = 8;

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
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let instance = named::running_with(&fleet, name, args.container.as_deref())?;
    let command = Command {
        container: args.container.clone(),
        command: [&["tar"], arguments].concat().into_iter().map(str::to_owned).collect(),
        input,
        terminal: None,
    };
    exec::begin(context, cloud.as_ref(), &instance.id, &command).await
}

/// What `tar` in the container ended with.
fn ended(code: i32, said: &[u8]) -> Result<(), Failure> {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    match code {
        0 => Ok(()),
        127 => Err(Failure::new(
            Exit::Failure,
            anyhow::anyhow!("the container has no `tar`, which cp needs on its side ({said})"),
        )),
        code => Err(Failure::new(
            Exit::Failure,
            anyhow::anyhow!("tar in the container ended with exit code {code}: {said}"),
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
    let mut said = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            Output::Out(bytes) | Output::Err(bytes) => said.extend(bytes),
            Output::Unanswered => {}
            Output::Ended(ended) => code = Some(ended),
        }
    }
    ended(code.unwrap_or(255), &said)
}

/// Unpacks the tar stream on standard input into a folder of the container.
async fn extract(context: &Context, args: &CpArgs, (name, folder): (&str, &str)) -> Result<Exit, Failure> {
    let Session { input, mut output } = tar(context, args, name, &["-xf", "-", "-C", folder], true).await?;
    // Standard input cannot be waited for without a thread; it ends with the process.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let copied = io::copy(&mut io::stdin().lock(), &mut Sender(input.clone()));
        // Before the end is told, so that tar cannot be done with half a stream before that is known.
        let _ = tell.send(copied);
        let _ = input.blocking_send(Input::End);
    });
    read_by_tar(&mut output).await?;
    match told.try_recv() {
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
    let mut said = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            // Nobody reads any more: the container's tar is left to end with the session.
            Output::Out(bytes) if !report::bytes(&bytes, false) => return Ok(Exit::Success),
            Output::Out(_) => {}
            Output::Err(bytes) => said.extend(bytes),
            Output::Unanswered => {}
            Output::Ended(ended) => code = Some(ended),
        }
    }
    drop(input);
    ended(code.unwrap_or(255), &said)?;
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
    let target = if to.is_dir() { to.join(last) } else { to.to_owned() };
    let Session { input, mut output } =
        tar(context, args, name, &["-cf", "-", "-C", folder, last], false).await?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let last = last.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&last, &target, Receiver::new(receiver)));
    let mut said = Vec::new();
    let mut code = None;
    while let Some(event) = output.next().await {
        match event.or_exit(Exit::Cloud)? {
            // The unpacking may have failed; then tar is read to its end all the same.
            Output::Out(bytes) => drop(sender.send(bytes).await),
            Output::Err(bytes) => said.extend(bytes),
            Output::Unanswered => {}
            Output::Ended(ended) => code = Some(ended),
        }
    }
    drop((sender, input));
    let unpacked = unpacked.await.map_err(io::Error::other).and_then(|unpacked| unpacked);
    ended(code.unwrap_or(255), &said)?;
    unpacked.or_exit(Exit::Failure)?;
    Ok(Exit::Success)
}

/// Writes what is below `name` in the archive to `target`. The container is not trusted: nothing is written elsewhere.
fn unpack(name: &str, target: &Path, from: Receiver) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let below = path.strip_prefix(name).map_err(|_| {
            io::Error::other(format!("the container sent {}, which was not asked for", path.display()))
        })?;
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!(
                "the container sent {}, which leads elsewhere",
                path.display()
            )));
        }
        if below.as_os_str().is_empty() {
            if entry.header().entry_type().is_dir() {
                std::fs::create_dir_all(target)?;
            } else {
                entry.unpack(target)?;
            }
            continue;
        }
        unpack_below(&mut entry, target, below)?;
    }
    // What follows the archive's end must be read, or tar in the container waits for ever.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

fn unpack_below<R: Read>(entry: &mut tar::Entry<'_, R>, target: &Path, below: &Path) -> io::Result<()> {
    // A link that the container sent before must not lead this entry out.
    let mut folder = PathBuf::from(target);
    for part in below.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        if std::fs::symlink_metadata(&folder).is_ok_and(|found| found.is_symlink()) {
            return Err(io::Error::other(format!(
                "the container sent a file through the link {}",
                folder.display()
            )));
        }
    }
    std::fs::create_dir_all(&folder)?;
    if entry.header().entry_type().is_hard_link() {
        return Err(io::Error::other(format!("{} is a hard link, which cp does not copy", below.display())));
    }
    entry.unpack(target.join(below)).map(drop)
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

    #[test]
    fn a_container_writes_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let unpacked = |name: &str, fill: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
            let mut builder = tar::Builder::new(Vec::new());
            fill(&mut builder);
            let (sender, receiver) = mpsc::channel(2);
            sender.try_send(builder.into_inner().unwrap()).unwrap();
            drop(sender);
            unpack("data", &root.path().join(name), Receiver::new(receiver))
        };
        let file = |builder: &mut tar::Builder<Vec<u8>>, path: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"hi"[..]).unwrap();
        };
        unpacked("good", &|builder| file(builder, "data/deep/file")).unwrap();
        assert_eq!(std::fs::read(root.path().join("good/deep/file")).unwrap(), b"hi");
        for path in ["data/../../out", "other", "/etc/out"] {
            unpacked("bad", &|builder| file(builder, path)).unwrap_err();
        }
        let link = |builder: &mut tar::Builder<Vec<u8>>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, "data/way", root.path()).unwrap();
            file(builder, "data/way/out");
        };
        unpacked("linked", &link).unwrap_err();
        assert!(!root.path().join("out").exists());
    }
}
