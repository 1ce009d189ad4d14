//! Tells a guest who it is, over the port that it waits at right after it has mounted its image. The guest asks again and again until
//! it has an answer, so that whoever is at this end may be killed and replaced amid it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use i2kit_spec::identity::{IDENTITY_TAKEN, IDENTITY_WANTED, Identity, encode_identity};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::machine::qemu;
use crate::cloud::local::socket;
use crate::cloud::random::random;

/// What a guest is told, in the machine's folder: for the next process, when this one is killed before the guest has it.
const FILE: &str = "identity.json";

/// Between two answers: a guest that asks without end keeps nobody busy.
const PAUSE: Duration = Duration::from_millis(20);

/// How much is read at once.
const CHUNK: usize = 512;

/// What a machine is told of itself, but for what is new each time: the time, and random bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Told {
    /// Parameters as on the kernel's command line.
    pub(crate) parameters: String,
    /// The Ethernet address of its network interface, where that is its own.
    pub(crate) hardware: Option<[u8; 6]>,
}

impl Told {
    /// Writes it down in the machine's folder, before its process is there.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), CloudError> {
        let path = folder.join(FILE);
        let text =
            serde_json::to_string(self).map_err(|error| CloudError::Store { message: error.to_string() })?;
        fs::write(&path, text).map_err(CloudError::file("write", &path))
    }

    /// What was written down of the machine in this folder, if it is one that is told.
    pub(crate) fn kept(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// The message to the guest, as of now.
    fn message(&self) -> io::Result<Vec<u8>> {
        let identity = Identity {
            parameters: self.parameters.clone(),
            hardware: self.hardware,
            time: clock::nanoseconds(),
            seed: random().map_err(io::Error::other)?,
        };
        encode_identity(&identity).ok_or_else(|| io::Error::other("what the guest is to be told is too long"))
    }
}

/// What a guest says over this port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Wanted,
    Taken,
}

/// What a guest has sent, as far as it may be the beginning of a word.
#[derive(Debug, Default)]
struct Heard(Vec<u8>);

impl Heard {
    /// Takes bytes that came.
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next word; what is none is passed over.
    fn word(&mut self) -> Option<Word> {
        let words = [(Word::Wanted, IDENTITY_WANTED), (Word::Taken, IDENTITY_TAKEN)];
        let at = |text: &[u8]| self.0.windows(text.len()).position(|window| window == text);
        let found = words.iter().filter_map(|(word, text)| Some((at(*text)?, text.len(), *word)));
        let Some((at, length, word)) = found.min_by_key(|(at, ..)| *at) else {
            let beginning = self.0.len().min(IDENTITY_WANTED.len() - 1);
            self.0.drain(..self.0.len() - beginning);
            return None;
        };
        self.0.drain(..at + length);
        Some(word)
    }
}

/// The next word of the guest. An end of the connection is an error.
async fn hear(stream: &mut UnixStream, heard: &mut Heard) -> io::Result<Word> {
    let mut chunk = [0; CHUNK];
    loop {
        if let Some(word) = heard.word() {
            return Ok(word);
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => heard.push(&chunk[..length]),
        }
    }
}

/// Tells the guest of the machine in `folder` who it is, and waits until it has taken that: once it asks, or at once where it is
/// known to wait.
pub(crate) async fn tell(folder: &Path, told: &Told, waits: bool) -> io::Result<()> {
    let mut stream = socket::connect(folder, qemu::IDENTITY).await?;
    let mut heard = Heard::default();
    if waits {
        stream.write_all(&told.message()?).await?;
    }
    while hear(&mut stream, &mut heard).await? == Word::Wanted {
        stream.write_all(&told.message()?).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Waits until the guest of the machine in `folder` wants to know who it is, and does not tell it.
pub(crate) async fn wanted(folder: &Path) -> io::Result<()> {
    let mut stream = socket::connect(folder, qemu::IDENTITY).await?;
    hear(&mut stream, &mut Heard::default()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use i2kit_spec::identity::take_identity;

    use super::*;
    use crate::mutations::survive;

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn told() -> Told {
        Told { parameters: "i2kit.instance=web-1".into(), hardware: Some([2, 0, 10, 78, 1, 1]) }
    }

    /// The next identity that comes over the stream, of which `bytes` have come.
    async fn identity(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> Identity {
        loop {
            if let Some(identity) = take_identity(bytes).unwrap() {
                return identity;
            }
            let mut chunk = [0; 64];
            let length = stream.read(&mut chunk).await.unwrap();
            assert!(length > 0, "an identity");
            bytes.extend_from_slice(&chunk[..length]);
        }
    }

    #[tokio::test]
    async fn a_guest_is_told_as_often_as_it_asks_and_never_the_same_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), qemu::IDENTITY).unwrap();
        let guest = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Boots, and asks twice before it looks.
            stream.write_all(b"noise i2kit-id").await.unwrap();
            stream.write_all(b"? 1\ni2kit-id? 1\n").await.unwrap();
            let mut bytes = Vec::new();
            let first = identity(&mut stream, &mut bytes).await;
            let second = identity(&mut stream, &mut bytes).await;
            stream.write_all(IDENTITY_TAKEN).await.unwrap();
            (first, second)
        };
        let told = told();
        let both = async { tokio::join!(tell(folder.path(), &told, false), guest) };
        let (done, (first, second)) = tokio::time::timeout(PATIENCE, both).await.expect("an end");
        done.unwrap();
        assert_eq!((&first.parameters, first.hardware), (&told.parameters, told.hardware));
        assert!(first.seed != second.seed && first.time <= second.time);
        assert!(first.time > 0 && second.time <= clock::nanoseconds());
    }

    #[tokio::test]
    async fn a_guest_that_waits_is_told_at_once_and_one_that_goes_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), qemu::IDENTITY).unwrap();
        let guest = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            identity(&mut stream, &mut Vec::new()).await
        };
        let told = told();
        let both = async { tokio::join!(tell(folder.path(), &told, true), guest) };
        let (done, first) = tokio::time::timeout(PATIENCE, both).await.expect("an end");
        assert_eq!(first.parameters, told.parameters);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_template_is_not_told_anything() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), qemu::IDENTITY).unwrap();
        let guest = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(IDENTITY_WANTED).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let both = async { tokio::join!(wanted(folder.path()), guest) };
        let (done, rest) = tokio::time::timeout(PATIENCE, both).await.expect("an end");
        done.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

    #[test]
    fn what_a_machine_is_told_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Told::kept(folder.path()), None);
        told().keep(folder.path()).unwrap();
        assert_eq!(Told::kept(folder.path()), Some(told()));
    }

    #[test]
    fn whatever_a_guest_sends_its_words_are_found_and_little_is_kept() {
        let seeds = [[&b"x"[..], IDENTITY_WANTED, b"yy", IDENTITY_TAKEN].concat()];
        let mut heard = Heard::default();
        heard.push(&seeds[0]);
        assert_eq!((heard.word(), heard.word(), heard.word()), (Some(Word::Wanted), Some(Word::Taken), None));
        survive(&seeds, 3000, |bytes| {
            let words = |pieces: &[&[u8]]| {
                let mut heard = Heard::default();
                let mut words = Vec::new();
                for piece in pieces {
                    heard.push(piece);
                    words.extend(std::iter::from_fn(|| heard.word()));
                    assert!(heard.0.len() < IDENTITY_WANTED.len());
                }
                words
            };
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            assert_eq!(words(&[bytes]), words(&[first, rest]), "however the bytes come");
        });
    }
}
