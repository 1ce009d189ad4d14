//! The stand-in's disk: what a container would keep there. Records are numbered from 1, each in a sector of its own, and each
//! is on the host's disk when its number is answered.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

/// What has the next record written: its number is the answer.
const APPEND: &str = "/append";

/// What has all records read: the answer is how many are there, one behind the other.
const COUNT: &str = "/count";

/// Bytes of a record.
const SECTOR: u64 = 512;

/// Where the first one is: far behind the start of the file system that the local cloud made.
const START: u64 = 1 << 20;

/// A disk that outlives its machine.
pub(super) struct Disk {
    file: File,
    /// How many records are on it.
    count: u64,
}

impl Disk {
    /// The disk in this file, with the records that are there already.
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let mut disk = Self { file: file.into(), count: 0 };
        disk.count = disk.counted()?;
        Ok(disk)
    }

    /// What a request is answered; none where it is about something else than the disk.
    pub(super) fn answer(&mut self, path: &str) -> Option<String> {
        let number = match path {
            APPEND => self.append(),
            COUNT => self.counted(),
            _ => return None,
        };
        Some(number.map_or_else(|error| error.to_string(), |number| number.to_string()))
    }

    fn append(&mut self) -> io::Result<u64> {
        let number = self.count + 1;
        self.file.write_all_at(&record(number), START + self.count * SECTOR)?;
        self.file.sync_data()?;
        self.count = number;
        Ok(number)
    }

    fn counted(&self) -> io::Result<u64> {
        let mut number = 0;
        loop {
            let wanted = record(number + 1);
            let mut found = vec![0; wanted.len()];
            self.file.read_exact_at(&mut found, START + number * SECTOR)?;
            if found != wanted {
                return Ok(number);
            }
            number += 1;
        }
    }
}

/// The bytes of a record: its number, again and again.
fn record(number: u64) -> Vec<u8> {
    (0..SECTOR / 8).flat_map(|_| number.to_le_bytes()).collect()
}
