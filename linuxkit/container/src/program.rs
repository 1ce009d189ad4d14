//! Finds the program of a container in its `PATH`, as a shell would, or the exact reason why it cannot be run.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::error::Error;

/// Where programs are looked up when the environment has no `PATH`, as container engines do.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to execute for `args[0]`.
pub(crate) fn find(program: &str, path: &str) -> Result<PathBuf, Error> {
    let fail = |reason: String, missing| Error::Program { program: program.to_owned(), reason, missing };
    let failed = |errno| fail(reason(errno), errno == Errno::NOENT);
    if program.is_empty() {
        return Err(fail("names no program".into(), true));
    }
    if program.contains('/') {
        return check(Path::new(program)).map(|()| program.into()).map_err(failed);
    }
    let mut found = Errno::NOENT;
    for folder in path.split(':') {
        // An empty entry means the working directory.
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(program);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => found = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(fail(format!("{} in PATH={path}", reason(found)), found == Errno::NOENT))
}

fn check(path: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    if path.is_dir() { Err(Errno::ACCESS) } else { Ok(()) }
}

fn reason(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "is not found".into(),
        Errno::ACCESS => "is not executable for the container's user".into(),
        errno => format!("cannot be executed: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_through_path_in_order() {
        assert_eq!(find("sh", "/nowhere:/usr/bin:/bin").unwrap(), Path::new("/usr/bin/sh"));
        assert_eq!(find("/bin/sh", "").unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn the_reason_is_given() {
        let message = |program: &str, path: &str| find(program, path).unwrap_err().to_string();
        assert_eq!(message("no-such", "/bin:/sbin"), "\"no-such\" is not found in PATH=/bin:/sbin");
        assert_eq!(message("/etc", ""), "\"/etc\" is not executable for the container's user");
        assert_eq!(message("", "/bin"), "\"\" names no program");
    }
}
