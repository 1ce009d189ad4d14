//! Loads the kernel modules of the initrd. A kernel with everything built in has no such folder and loads none.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Doing, Error};

/// Where scripts/guest puts the modules.
const FOLDER: &str = "/lib/modules";

/// One file name a line, in an order in which each finds what it depends on.
const ORDER: &str = "order";

/// Whether the initrd has modules.
pub(crate) fn present() -> bool {
    Path::new(FOLDER).join(ORDER).exists()
}

/// Loads all modules in order.
pub(crate) fn load() -> Result<(), Error> {
    let order = Path::new(FOLDER).join(ORDER);
    let text = fs::read_to_string(&order).doing(|| format!("read {}", order.display()))?;
    for name in text.lines() {
        let path = Path::new(FOLDER).join(name);
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // A module refuses with ENODEV where its hardware is absent, and with EEXIST where it is built in.
            Ok(()) | Err(Errno::NODEV | Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing(|| format!("load {}", path.display())),
        }
    }
    Ok(())
}
