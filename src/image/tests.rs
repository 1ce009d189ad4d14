//! Whatever happens to a file of the cache, images are what they were: a property over all files and kinds of damage.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::Duration;

use i2kit_spec::Architecture;
use i2kit_spec::guest::{
    GUEST_COORDINATOR, GUEST_INITRD, GUEST_KERNEL, GUEST_MANIFEST, GUEST_STUB, GUEST_VERSION, GuestManifest,
};
use proptest::prelude::*;
use serde_json::json;

use super::{DiskImage, ImageError, Workshop, bootable, guest, raw};
use crate::manifest::api::{Container, Name, PodSpec, PodTemplate};
use crate::oci::{Digest, Reference, media};
use crate::plan::{pod, replicated};
use crate::registry::{ImageSource, Registry, Settings, Store, verify};
use crate::report::Events;

/// A folder with a guest, an image as a layout, and a cache.
struct World {
    folder: tempfile::TempDir,
    reference: Reference,
}

/// An entry of a layer: a path, its mode, and its content unless it is a directory.
type Entry<'a> = (&'a str, u32, Option<&'a [u8]>);

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.map_or(0, |content| content.len() as u64));
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(if content.is_some() {
            tar::EntryType::Regular
        } else {
            tar::EntryType::Directory
        });
        tar.append_data(&mut header, path, content.unwrap_or_default()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The bundle's layer with the coordinator.
fn coordinator() -> Vec<u8> {
    tar_of(&[("i2kit-coordinator", 0o755, Some(b"a program"))])
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("guest");
        fs::create_dir(&bundle).unwrap();
        let stub = crate::disk::example::stub();
        let manifest = GuestManifest {
            version: GUEST_VERSION.into(),
            kernel_release: "6.1.0-1-cloud-amd64".into(),
            arch: Architecture::Amd64,
            kernel: Digest::of(b"kernel").to_string(),
            initrd: Digest::of(b"initrd").to_string(),
            identity: None,
            cloud: None,
            stub: Some(Digest::of(&stub).to_string()),
            coordinator: Some(Digest::of(&coordinator()).to_string()),
        };
        fs::write(bundle.join(GUEST_MANIFEST), serde_json::to_string(&manifest).unwrap()).unwrap();
        fs::write(bundle.join(GUEST_KERNEL), "kernel").unwrap();
        fs::write(bundle.join(GUEST_INITRD), "initrd").unwrap();
        fs::write(bundle.join(GUEST_STUB), stub).unwrap();
        fs::write(bundle.join(GUEST_COORDINATOR), coordinator()).unwrap();

        let noise: Vec<u8> =
            (0..60_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let base = tar_of(&[("./", 0o755, None), ("tmp", 0o1777, None), ("lib", 0o644, Some(&noise))]);
        let top = tar_of(&[("tmp/app", 0o755, Some(&[7; 9000])), ("zeros", 0o644, Some(&vec![0; 300_000]))]);
        let blobs = folder.path().join("layout/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let blob = |media_type: &str, content: &[u8]| {
            let digest = Digest::of(content);
            fs::write(blobs.join(digest.hex()), content).unwrap();
            json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
        };
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/tmp/app"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&base), Digest::of(&top)] },
        });
        let layers = [blob(media::OCI_LAYER, &base), blob(media::OCI_LAYER, &top)];
        let config = blob(media::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let entry = blob(media::OCI_MANIFEST, manifest.to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(folder.path().join("layout/index.json"), index.to_string()).unwrap();
        Self { folder, reference: "app:1".parse().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn build(&self) -> Result<DiskImage, ImageError> {
        self.build_of(false)
    }

    /// The image of the pod, with a coordinator or without.
    fn build_of(&self, replicated: bool) -> Result<DiskImage, ImageError> {
        let source = ImageSource::Layout(self.folder.path().join("layout"));
        let settings = Settings { images: [("app:1".to_owned(), source)].into(), ..Settings::default() };
        let registry = Registry::new(settings, Store::open(&self.cache())?, Events::none())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let resolved = registry.resolve(&self.reference, Architecture::default()).await?;
            let mut images = BTreeMap::from([(self.reference.clone(), resolved)]);
            let guest = guest::find(Some(&self.folder.path().join("guest")), Path::new("/nowhere"))?;
            let layer = guest.coordinator.as_ref().filter(|_| replicated);
            let own =
                layer.map(|layer| (replicated::reference(), replicated::image(layer.digest, layer.size)));
            let sidecars = own.iter().map(|(reference, _)| Container::new("coordinator", reference.clone()));
            let sidecars: Vec<Container> = sidecars.collect();
            images.extend(own);
            let template = PodTemplate {
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                spec: PodSpec {
                    init_containers: sidecars,
                    containers: vec![Container::new("web", self.reference.clone())],
                    ..PodSpec::default()
                },
            };
            let name = Name { namespace: "default".into(), name: "web".into() };
            let facts = pod::Facts { images: &images, guest: &guest.facts, profiles: &BTreeMap::new() };
            let plan = pod::image(&name, &template, &facts).unwrap();
            Workshop::new(registry, guest, Events::none()).build(&plan, &images).await
        })
    }

    /// The files of a disk that is built now.
    fn parts(&self) -> Result<Vec<Vec<u8>>, ImageError> {
        let image = self.build()?;
        Ok(image
            .segments
            .iter()
            .filter_map(|s| s.file.as_ref())
            .map(|file| fs::read(file).unwrap())
            .collect())
    }

    /// The raw disk.
    fn raw(&self) -> Result<Vec<u8>, ImageError> {
        let disk = self.folder.path().join("disk.raw");
        let _ = fs::remove_file(&disk);
        raw::write(&self.build()?, &disk)?;
        Ok(fs::read(disk).unwrap())
    }

    /// The stored parts of a disk that firmware boots.
    fn bootable(&self) -> Result<Vec<Vec<u8>>, ImageError> {
        let segments = bootable(&self.build()?, &self.cache())?;
        Ok(segments.iter().filter_map(|s| s.file.as_ref()).map(|file| fs::read(file).unwrap()).collect())
    }

    /// All files of the cache, in a fixed order.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            for file in fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.retain(|path| !path.ends_with("lock"));
        files.sort();
        files
    }
}

/// At most two tries: what is found to be spoiled is removed with an error that names it and what to do.
fn again<T>(what: impl Fn() -> Result<T, ImageError>) -> T {
    match what() {
        Ok(made) => made,
        Err(error @ ImageError::Spoiled { .. }) => {
            assert!(error.to_string().contains("i2kit cache verify"), "{error}");
            what().unwrap()
        }
        Err(error) => panic!("{error}"),
    }
}

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(u8),
    Cut,
    Lost,
}

/// Whether anything is damaged at all. The file's time stays when `rots`: as of a disk, not of a program.
fn damage(path: &Path, damage: Damage, at: impl Fn(usize) -> usize, rots: bool) -> bool {
    let mut bytes = fs::read(path).unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    match damage {
        _ if bytes.is_empty() => return false,
        Damage::Flip(bit) => {
            let at = at(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut => bytes.truncate(at(bytes.len())),
        Damage::Lost => {
            fs::remove_file(path).unwrap();
            return true;
        }
    }
    fs::write(path, bytes).unwrap();
    // A clock may be too coarse to tell what was written right after it was made.
    let time = if rots { modified } else { modified + Duration::from_secs(1) };
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    true
}

#[test]
fn a_coordinator_is_a_layer_of_the_images_that_ask_for_it_and_of_no_others() {
    let world = World::new();
    let plain = world.build().unwrap();
    let replicated = world.build_of(true).unwrap();
    let parts = |image: &DiskImage| image.segments.iter().filter(|segment| segment.file.is_some()).count();
    assert_eq!(parts(&replicated), parts(&plain) + 1);
    // Another program is another layer, and the images of other pods stay what they are.
    let file = world.folder.path().join("guest").join(GUEST_COORDINATOR);
    fs::write(&file, tar_of(&[("i2kit-coordinator", 0o755, Some(b"another"))])).unwrap();
    fs::remove_dir_all(world.cache()).unwrap();
    assert_eq!(world.build().unwrap().id, plain.id);
    let error = world.build_of(true).unwrap_err().to_string();
    assert!(error.contains("layer"), "{error}");
    fs::remove_file(&file).unwrap();
    let error = world.build().unwrap_err().to_string();
    assert!(error.contains("coordinator.tar is missing"), "{error}");
}

#[test]
fn whatever_happens_to_a_file_of_the_cache_images_are_what_they_were() {
    let world = World::new();
    let (parts, raw, boot) = (world.parts().unwrap(), world.raw().unwrap(), world.bootable().unwrap());
    let kinds =
        prop_oneof![4 => (0_u8..8).prop_map(Damage::Flip), 2 => Just(Damage::Cut), 1 => Just(Damage::Lost)];
    let cases = (any::<prop::sample::Index>(), kinds, any::<prop::sample::Index>(), any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
    let result = runner.run(&cases, |(file, kind, at, rots)| {
        let files = world.files();
        let path = &files[file.index(files.len())];
        prop_assume!(damage(path, kind, |length| at.index(length), rots));
        let told = format!("{} {kind:?} {rots}", path.display());
        if !rots {
            // Who has written to a file has changed its time: it is not even served to this machine.
            prop_assert!(world.parts().unwrap() == parts, "{}", told);
        }
        prop_assert!(again(|| world.raw()) == raw, "{}", told);
        prop_assert!(again(|| world.bootable()) == boot, "{}", told);
        prop_assert!(world.parts().unwrap() == parts, "{}", told);
        let left = verify(&world.cache(), false).unwrap();
        // What nobody has read just now may still be spoiled, and is found.
        prop_assert!(left.spoiled.iter().all(|spoiled| spoiled.removed), "{}", told);
        prop_assert_eq!(verify(&world.cache(), true).unwrap().spoiled, vec![], "{}", told);
        prop_assert!(world.parts().unwrap() == parts && world.bootable().unwrap() == boot, "{}", told);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn every_spoiled_file_is_found_by_reading_all() {
    let world = World::new();
    world.bootable().unwrap();
    let good = verify(&world.cache(), false).unwrap();
    assert!(good.spoiled.is_empty() && good.entries >= 8, "{good:?}");
    for path in world.files() {
        if path.extension().is_some_and(|end| end == "sum") {
            continue;
        }
        let content = fs::read(&path).unwrap();
        if !damage(&path, Damage::Flip(3), |length| length / 2, true) {
            continue;
        }
        let found = verify(&world.cache(), true).unwrap();
        assert_eq!(found.spoiled.len(), 1, "{}: {found:?}", path.display());
        assert!(!found.spoiled[0].removed);
        fs::write(&path, content).unwrap();
        assert!(verify(&world.cache(), true).unwrap().spoiled.is_empty(), "{}", path.display());
    }
}

#[test]
fn an_implied_directory_comes_to_lie_over_the_layers() {
    let world = World::new();
    let image = world.build().unwrap();
    let pod = image.segments[1].file.as_ref().unwrap();
    let shown = crate::erofs::dump(File::open(pod).unwrap()).unwrap();
    assert!(shown.contains("dir   1777 0:0 0 /over-web/tmp\n"), "{shown}");
}
