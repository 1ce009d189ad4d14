//! The client of the supervisor's socket: one request a connection, `linuxkit/spec/src/replica.rs`. It blocks; who calls it from
//! a task does so by `spawn_blocking`.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use i2kit_spec::replica::{PodAnswer, PodRequest};

/// The longest line of an answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// The longest frame of a program's output that is taken.
const MAX_FRAME: usize = 1 << 20;

/// Bytes of the frames that are sent.
const FRAME: usize = 64 << 10;

/// How long the supervisor may say nothing: a container's grace period of minutes ends before it, and so does the longest pause
/// in what a hook writes.
const SILENCE: Duration = Duration::from_mins(15);

/// Why the supervisor did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The socket does not work.
    #[error("the supervisor's socket {0} does not work: {1}; the machine's console says why")]
    Socket(PathBuf, io::Error),
    /// What came is no answer.
    #[error(
        "the supervisor's answer cannot be read ({0}); give all parts of the machine one version of i2kit"
    )]
    Answer(String),
    /// It says why not.
    #[error("the supervisor refuses: {0}")]
    Refused(String),
    /// The state could not be read or written while a program ran.
    #[error("the stream of a program in the container breaks: {0}")]
    Stream(io::Error),
}

/// The supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    socket: PathBuf,
}

impl Pod {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Has something done that has no output.
    pub(crate) fn ask(&self, request: &PodRequest) -> Result<(), PodError> {
        let stream = self.send(request)?;
        match self.answer(&mut BufReader::new(&stream), &[])? {
            PodAnswer::Done => Ok(()),
            PodAnswer::Refused(why) => Err(PodError::Refused(why)),
            answer @ PodAnswer::Exit(_) => Err(PodError::Answer(format!("{answer:?} to {request:?}"))),
        }
    }

    /// Runs a program with `input` as its standard input and writes its output to `output`; its exit code.
    pub(crate) fn run(
        &self,
        request: &PodRequest,
        input: Option<&File>,
        output: Option<&File>,
    ) -> Result<i32, PodError> {
        let stream = self.send(request)?;
        let (sent, answer) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| send_input(&stream, input));
            let answer = self.receive(&stream, output);
            // A program may end without having read its input; who sends it waits no longer then.
            let _ = stream.shutdown(Shutdown::Both);
            (sender.join(), answer)
        });
        match answer? {
            PodAnswer::Exit(0) => match sent {
                Ok(Ok(())) => Ok(0),
                // Who has nothing to read has not to wait for the end of it.
                Ok(Err(_)) if input.is_none() => Ok(0),
                Ok(Err(error)) => Err(PodError::Stream(error)),
                Err(_) => Err(PodError::Stream(io::ErrorKind::Other.into())),
            },
            PodAnswer::Exit(code) => Ok(code),
            PodAnswer::Refused(why) => Err(PodError::Refused(why)),
            PodAnswer::Done => Err(PodError::Answer("done, to a program that was run".to_owned())),
        }
    }

    fn send(&self, request: &PodRequest) -> Result<UnixStream, PodError> {
        let open = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line)?;
            Ok(stream)
        };
        open().map_err(|error| self.broken(error))
    }

    /// Takes the output, and then the answer. An answer without output before it begins with a sign of JSON, which would be the
    /// length of a frame beyond all limits.
    fn receive(&self, stream: &UnixStream, output: Option<&File>) -> Result<PodAnswer, PodError> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(|error| self.broken(error))?;
            if matches!(length[0], b'{' | b'"') {
                return self.answer(&mut reader, &length);
            }
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length == 0 {
                return self.answer(&mut reader, &[]);
            }
            if length > MAX_FRAME {
                return Err(PodError::Answer(format!("a frame of {length} bytes")));
            }
            let mut frame = vec![0; length];
            reader.read_exact(&mut frame).map_err(|error| self.broken(error))?;
            if let Some(mut output) = output {
                output.write_all(&frame).map_err(PodError::Stream)?;
            }
        }
    }

    /// Reads the line of an answer, of which `start` has been read.
    fn answer(&self, reader: &mut BufReader<&UnixStream>, start: &[u8]) -> Result<PodAnswer, PodError> {
        let mut line = start.to_vec();
        reader.take(MAX_ANSWER).read_until(b'\n', &mut line).map_err(|error| self.broken(error))?;
        if line.is_empty() {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|error| PodError::Answer(error.to_string()))
    }

    fn broken(&self, error: io::Error) -> PodError {
        PodError::Socket(self.socket.clone(), error)
    }
}

/// Sends a file, from where it stands, as frames and their end.
fn send_input(mut stream: &UnixStream, input: Option<&File>) -> io::Result<()> {
    let mut frame = vec![0; 4 + FRAME];
    while let Some(mut input) = input {
        let read = input.read(&mut frame[4..])?;
        if read == 0 {
            break;
        }
        let length = u32::try_from(read).map_err(io::Error::other)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&frame[..4 + read])?;
    }
    stream.write_all(&0_u32.to_be_bytes())
}
