//! Work in a process of its own, so that PID 1 never has in its memory what the work reads: values of Secrets above all.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use crate::error::{Doing, Error};
use crate::status::in_words;

/// Does the work in a copy of this process and waits for its end. Mounts and files that it makes stay.
pub(crate) fn run(work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe".into())?;
    let child = move || match work() {
        Ok(()) => 0,
        Err(error) => {
            // When even this fails, the exit code is all there is.
            let _ = File::from(write).write_all(error.to_string().as_bytes());
            1
        }
    };
    let (pid, _pidfd) = i2kit_sys::fork(0, None, child).doing(|| "clone".into())?;
    let mut message = String::new();
    File::from(read).read_to_string(&mut message).doing(|| "wait for the work's result".into())?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
            Ok(Some((_, status))) if message.is_empty() => {
                let message = format!("a process of the guest {} before it was done", in_words(status));
                return Err(Error::Apart { message });
            }
            Ok(Some(_)) => return Err(Error::Apart { message }),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for the work's end".into()),
        }
    }
}
