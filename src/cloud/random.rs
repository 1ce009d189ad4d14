//! Random bytes of the system.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::CloudError;

/// So many bytes that nobody can guess.
///
/// # Errors
/// The system's source of them cannot be read.
pub fn random<const N: usize>() -> Result<[u8; N], CloudError> {
    let source = Path::new("/dev/urandom");
    let read = || -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        File::open(source)?.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(CloudError::file("read", source))
}
