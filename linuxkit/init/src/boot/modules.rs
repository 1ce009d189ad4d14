//! Loads the kernel modules of the initrd. A kernel with everything built in has no such folder and loads none.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Doing, Error};

/// Where scripts/guest puts the modules: those that every VM needs, and those of disks that firmware boots.
const FOLDERS: [&str; 2] = ["/lib/modules", "/lib/cloud-modules"];

/// Where it puts those for packet filters.
const FILTER_FOLDER: &str = "/lib/filter-modules";

/// One file name a line, in an order in which each finds what it depends on.
const ORDER: &str = "order";

/// Whether the initrd has modules.
pub(crate) fn present() -> bool {
    FOLDERS.iter().any(|folder| Path::new(folder).join(ORDER).exists())
}

/// Loads all modules in order.
pub(crate) fn load() -> Result<(), Error> {
    FOLDERS.iter().map(Path::new).filter(|folder| folder.join(ORDER).exists()).try_for_each(load_folder)
}

/// Loads what programs need that set packet filters. Nobody else would load it: the VM has no program that the kernel asks
/// for a module, and once the boot is over it has no modules either.
pub(crate) fn load_packet_filters() -> Result<(), Error> {
    let folder = Path::new(FILTER_FOLDER);
    // A kernel of one's own may have them built in.
    if folder.join(ORDER).exists() { load_folder(folder) } else { Ok(()) }
}

fn load_folder(folder: &Path) -> Result<(), Error> {
    let order = folder.join(ORDER);
    let text = fs::read_to_string(&order).doing(|| format!("read {}", order.display()))?;
    for name in text.lines() {
        let path = folder.join(name);
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // A module refuses with ENODEV where its hardware is absent, and with EEXIST where it is built in.
            Ok(()) | Err(Errno::NODEV | Errno::EXIST) => {}
            Err(errno) => return Err(errno).doing(|| format!("load {}", path.display())),
        }
    }
    Ok(())
}
