//! Images in AWS against the test bed: what is sent, what is sent again after a failure, and what deletion leaves.
//!
//! Runs with `I2KIT_TEST_TOOLS=1`; the bed is Python, see `tests/aws/README.md`.

#[path = "../../../../tests/aws/harness.rs"]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_ec2::config::Credentials;
use aws_sdk_ec2::types::ImageState;

use self::harness::Bed;
use super::wait::eventually;
use super::*;
use crate::cloud::aws::plan::block_table;
use crate::cloud::aws::plan::record::PARAMETER_BYTES;
use crate::cloud::aws::plan::stack_templates::{MOST_TEMPLATE_BYTES, StackPlan};
use crate::disk::{example, gpt};
use crate::image::{DiskImage, Segment, bootable};
use crate::oci::Digest;
use crate::plan::image::ImageId;
use crate::plan::layout::{DiskLayout, Part};
use crate::report::Events;

/// Whether the tests that this variable stands for run; says so when they do not.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn runs(variable: &str) -> bool {
    let runs = setting(variable).is_some_and(|value| value == "1");
    if !runs {
        eprintln!("skipped: {variable}=1 is not set");
    }
    runs
}

fn wanted() -> bool {
    runs("I2KIT_TEST_TOOLS")
}

#[expect(clippy::disallowed_methods, reason = "the runner's settings come by the environment")]
fn setting(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

impl Bed {
    async fn aws(&self, cache: &Path) -> Aws {
        let settings = AwsSettings {
            environment: "test".into(),
            region: "us-east-1".into(),
            profile: None,
            endpoint: Some(self.endpoint.clone()),
            network: None,
            guest_endpoint: None,
            boundary: None,
            free_plan: false,
            cache: cache.into(),
            holder: "tests".into(),
        };
        let credentials = Credentials::new("example", "example", None, None, "test");
        Aws::with(settings, Events::none(), Some(credentials)).await.unwrap()
    }
}

/// An image of a pod file system, a base of 5 MiB and a top layer of that content.
fn image(folder: &Path, name: &str, top: &[u8]) -> DiskImage {
    let own = folder.join(name);
    fs::create_dir_all(&own).unwrap();
    let parts = [
        ("pod", Digest::of(name.as_bytes()).as_bytes().repeat(256)),
        ("base", vec![90; 5 << 20]),
        ("top", top.to_vec()),
    ];
    let part = |(name, bytes): &(&str, Vec<u8>)| Part {
        name: (*name).into(),
        content: Digest::of(bytes),
        size: bytes.len() as u64,
    };
    let content = Digest::of(name.as_bytes());
    let layout = DiskLayout::new(content, parts.iter().map(part)).unwrap();
    let file = |folder: &Path, name: &str, bytes: &[u8]| -> PathBuf {
        crate::image::write_part(&folder.join(name), bytes).unwrap();
        folder.join(name)
    };
    let mut segments = Vec::new();
    let mut push = |name: &str, bytes: &[u8], offset: u64| {
        let end: u64 = segments.iter().map(|segment: &Segment| segment.length).sum();
        if offset > end {
            segments.push(Segment { file: None, length: offset - end });
        }
        segments.push(Segment { file: Some(file(&own, name, bytes)), length: bytes.len() as u64 });
    };
    push("head", &gpt::head(&layout), 0);
    for (partition, (name, bytes)) in layout.partitions.iter().zip(&parts) {
        push(name, bytes, partition.offset);
    }
    push("tail", &gpt::tail(&layout), layout.size - gpt::TAIL_SIZE);
    DiskImage {
        id: ImageId(content),
        architecture: i2kit_spec::Architecture::Amd64,
        kernel: file(folder, "kernel", &vec![17; 700_000]),
        initrd: file(folder, "initrd", &vec![34; 300_000]),
        cloud: None,
        stub: Some(file(folder, "stub", &example::stub())),
        cmdline: "quiet".into(),
        segments,
    }
}

fn blocks_sent(journal: &[String]) -> usize {
    journal.iter().filter(|call| call.starts_with("PUT /snapshots/")).count()
}

fn blocks_read(journal: &[String]) -> usize {
    journal.iter().filter(|call| call.starts_with("GET /snapshots/") && call.contains("/blocks/")).count()
}

/// What is uploaded of an image: its disk, and the digests of its blocks.
fn upload(image: &DiskImage, cache: &Path) -> (blocks::Disk, blocks::BlockMap) {
    blocks::Disk::new(&bootable(image, cache).unwrap()).with_table().unwrap()
}

/// The bootable disk of an image, which has these bytes where the table of blocks would begin.
fn disk_with(bytes: &[u8], image: &DiskImage, cache: &Path) -> blocks::Disk {
    let mut segments = bootable(image, cache).unwrap();
    let tail = segments.pop().unwrap();
    let mut content = fs::read(tail.file.unwrap()).unwrap();
    let block = content.len() - usize::try_from(block_table::BLOCK).unwrap();
    content[block..][..bytes.len()].copy_from_slice(bytes);
    let file = cache.join("other-tail");
    fs::write(&file, content).unwrap();
    segments.push(Segment { file: Some(file), length: tail.length });
    blocks::Disk::new(&segments)
}

/// Asserts that the image's snapshot, read back from AWS, is the whole disk.
async fn assert_whole(aws: &Aws, image: &DiskImage) {
    let (_, expected) = upload(image, &aws.settings.cache);
    let registered = aws.machine_image(image.id).await.unwrap().expect("it was put");
    assert_eq!(registered.state(), Some(&ImageState::Available));
    let snapshot = registered.block_device_mappings()[0].ebs().unwrap().snapshot_id().unwrap().to_owned();
    let pages = aws.clients.ebs.list_snapshot_blocks().snapshot_id(&snapshot).send().await.unwrap();
    let mut found = blocks::BlockMap::new();
    for block in pages.blocks() {
        let (index, token) = (block.block_index().unwrap(), block.block_token().unwrap());
        let read =
            aws.clients.ebs.get_snapshot_block().snapshot_id(&snapshot).block_index(index).block_token(token);
        let bytes = read.send().await.unwrap().block_data.collect().await.unwrap().to_vec();
        if bytes.iter().any(|byte| *byte != 0) {
            found.insert(u32::try_from(index).unwrap(), blocks::digest(&bytes));
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_bed_refuses_what_cloudformation_does_not_take() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    let put = async |parameters: usize, value: usize, comment: usize| {
        let names = || (0..parameters).map(|number| format!("P{number}"));
        let declared =
            names().map(|name| format!("  {name}: {{Type: String}}\n")).collect::<Vec<_>>().concat();
        let head = format!("Parameters:\n{declared}Resources:\n  Logs: {{Type: \"AWS::Logs::LogGroup\"}}\n#");
        let plan = StackPlan {
            name: "i2kit-role-1-test".into(),
            part: "role",
            template: format!("{head}{}", "-".repeat(comment.saturating_sub(head.len()))),
            parameters: names().map(|name| (name, "v".repeat(value))).collect(),
        };
        let put = aws.put_stack(&plan).await.map_err(|error| error.to_string());
        aws.delete_stack(&plan.name).await.unwrap();
        put.err().unwrap_or_default()
    };
    assert_eq!(put(1, PARAMETER_BYTES, MOST_TEMPLATE_BYTES).await, "");
    let error = put(1, 1, MOST_TEMPLATE_BYTES + 1).await;
    assert!(error.contains("'templateBody'") && error.contains("less than or equal to 51200"), "{error}");
    let error = put(1, PARAMETER_BYTES + 1, 0).await;
    assert!(error.contains("parameterValue") && error.contains("less than or equal to 4096"), "{error}");
    assert_eq!(put(200, 1, 0).await, "");
    let error = put(201, 1, 0).await;
    assert!(error.contains("201, is greater than maximum allowed, 200"), "{error}");
}

#[tokio::test]
async fn only_changed_blocks_are_sent_and_the_whole_disk_arrives() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    let first = image(folder.path(), "first", &vec![1; 3 << 20]);
    aws.put_machine_image(&first).await.unwrap();
    let all = blocks_sent(&bed.journal());
    let (_, map) = upload(&first, folder.path());
    assert_eq!(all, map.len(), "exactly the blocks that are not zero");
    assert_whole(&aws, &first).await;

    bed.journal();
    aws.put_machine_image(&first).await.unwrap();
    assert_eq!(bed.journal(), ["DescribeImages"], "nothing changed: the look-up and nothing else");

    // A top layer of 1 MB instead of 3 MiB: two blocks of its own with its tree of hashes, zeroes for the five others that
    // the old one had with its tree; the tables, the pod file system and what names the trees' roots.
    let second = image(folder.path(), "second", &vec![2; 245 << 12]);
    aws.put_machine_image(&second).await.unwrap();
    let sent = blocks_sent(&bed.journal());
    assert!(sent <= 2 + 5 + 4, "{sent} blocks were sent");
    assert_whole(&aws, &second).await;

    // Another machine knows no block maps: it reads the tables that the two snapshots have in themselves, and sends as little.
    let elsewhere = tempfile::tempdir().unwrap();
    let third = image(elsewhere.path(), "third", &vec![3; 245 << 12]);
    let aws = bed.aws(elsewhere.path()).await;
    bed.journal();
    aws.put_machine_image(&third).await.unwrap();
    let journal = bed.journal();
    assert_eq!(blocks_read(&journal), 2, "{journal:?}");
    let sent = blocks_sent(&journal);
    assert!(sent <= 2 + 4, "{sent} blocks were sent");
    assert_whole(&aws, &third).await;

    // So it finds the nearest of all, which is not the newest.
    let elsewhere = tempfile::tempdir().unwrap();
    let fourth = image(elsewhere.path(), "fourth", &vec![1; 3 << 20]);
    let aws = bed.aws(elsewhere.path()).await;
    bed.journal();
    aws.put_machine_image(&fourth).await.unwrap();
    let journal = bed.journal();
    let (read, sent) = (blocks_read(&journal), blocks_sent(&journal));
    assert!(read == 3 && sent <= 4, "{read} blocks were read, {sent} sent");
    assert_whole(&aws, &fourth).await;

    // Twice: what is gone is no error.
    let ids = [first.id, second.id, third.id, fourth.id];
    for id in ids.iter().chain(&ids) {
        aws.delete_machine_image(*id).await.unwrap();
    }
    assert!(aws.images().await.unwrap().is_empty() && aws.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_table_of_blocks_that_is_damaged_or_of_another_disk_is_not_believed() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let old = image(folder.path(), "old", &vec![1; 1 << 20]);
    let new = image(folder.path(), "new", &vec![2; 1 << 20]);
    let all = upload(&old, folder.path()).1.len();
    // Who believed one of these would send nothing, or next to nothing: they say that the old disk has the new one's blocks.
    let (_, whole) = upload(&new, folder.path());
    let mut map = whole.clone();
    let (last, _) = map.pop_last().unwrap();
    let table = |disk: u32, map: &blocks::BlockMap| block_table::write(disk, map).unwrap();
    let mut damaged = table(last + 1, &map);
    damaged[100] ^= 1;
    let mut more = map.clone();
    more.insert(1500, [5; 32]);
    let cases = [
        ("damaged", damaged),
        ("of a disk of another size", table(2 * (last + 1), &map)),
        ("with a block that the snapshot does not have", table(last + 1, &more)),
        ("with its own block", table(last + 1, &whole)),
    ];
    for (what, table) in cases {
        let bed = Bed::start();
        let aws = bed.aws(folder.path()).await;
        aws.put_snapshot(old.id, disk_with(&table, &old, folder.path())).await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = bed.aws(elsewhere.path()).await;
        bed.journal();
        other.put_machine_image(&new).await.unwrap();
        let journal = bed.journal();
        assert_eq!(blocks_read(&journal), 1 + all, "{what}: the table, and then each block");
        let sent = blocks_sent(&journal);
        assert!(0 < sent && sent < all, "{what}: {sent} of {all} blocks were sent");
        assert_whole(&other, &new).await;
    }
}

#[tokio::test]
async fn a_parent_that_cannot_be_read_any_more_does_not_end_the_upload() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    for (name, byte) in [("first", 1), ("second", 2)] {
        aws.put_machine_image(&image(folder.path(), name, &vec![byte; 1 << 20])).await.unwrap();
    }
    let newest = aws.snapshots().await.unwrap()[0].snapshot_id().unwrap().to_owned();
    let gone = |calls: &str| {
        bed.fault(&serde_json::json!([{
            "match": calls, "count": 1000, "status": 404,
            "headers": {"content-type": "application/json", "x-amzn-errortype": "ResourceNotFoundException"},
            "body": "{\"message\": \"The snapshot does not exist\"}",
        }]));
    };
    // A runner without a cache looks at both, while another run deletes one.
    let elsewhere = tempfile::tempdir().unwrap();
    let third = image(elsewhere.path(), "third", &vec![3; 1 << 20]);
    let other = bed.aws(elsewhere.path()).await;
    gone(&format!("^GET /snapshots/{newest}/blocks"));
    bed.journal();
    other.put_machine_image(&third).await.unwrap();
    let (sent, all) = (blocks_sent(&bed.journal()), upload(&third, elsewhere.path()).1.len());
    assert!(0 < sent && sent < all, "{sent} of {all} blocks were sent");
    assert_whole(&other, &third).await;
    // Where none can be read, the reason is told.
    gone("^GET /snapshots/");
    let nowhere = tempfile::tempdir().unwrap();
    let fourth = image(nowhere.path(), "fourth", &vec![4; 1 << 20]);
    let error = bed.aws(nowhere.path()).await.put_machine_image(&fourth).await.unwrap_err().to_string();
    assert!(error.contains("ListSnapshotBlocks") && error.contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_block_map_that_cannot_be_kept_does_not_end_the_upload() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    aws.put_machine_image(&image(folder.path(), "first", &vec![1; 1 << 20])).await.unwrap();
    let parent = aws.snapshots().await.unwrap()[0].snapshot_id().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = bed.aws(elsewhere.path()).await;
    // No file takes the place of a folder.
    fs::create_dir(other.map_file(&parent)).unwrap();
    let second = image(elsewhere.path(), "second", &vec![2; 1 << 20]);
    bed.journal();
    other.put_machine_image(&second).await.unwrap();
    let (sent, all) = (blocks_sent(&bed.journal()), upload(&second, elsewhere.path()).1.len());
    assert!(0 < sent && sent < all, "{sent} of {all} blocks were sent");
    assert_whole(&other, &second).await;
    let left: Vec<PathBuf> =
        fs::read_dir(other.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(
        left.len() == 2 && left.iter().all(|path| path.extension().is_some_and(|e| e == "map")),
        "{left:?}"
    );
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_stopped() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    let image = image(folder.path(), "image", &vec![1; 3 << 20]);
    bed.fault(&serde_json::json!([{
        "match": "PUT /snapshots/", "skip": 5, "count": 1000, "status": 403,
        "headers": {"content-type": "application/json", "x-amzn-errortype": "ExpiredTokenException"},
        "body": "{\"message\": \"The security token included in the request is expired\"}",
    }]));
    let error = aws.put_machine_image(&image).await.unwrap_err().to_string();
    assert!(error.contains("PutSnapshotBlock") && error.contains("log in again"), "{error}");
    bed.fault(&serde_json::json!([]));
    bed.journal();
    aws.put_machine_image(&image).await.unwrap();
    let journal = bed.journal();
    let all = upload(&image, folder.path()).1.len();
    assert!(blocks_sent(&journal) < all, "{} of {all} blocks were sent again", blocks_sent(&journal));
    assert!(
        !journal.contains(&"POST /snapshots".to_owned()),
        "the snapshot begun is gone on with: {journal:?}"
    );
    assert_eq!(aws.snapshots().await.unwrap().len(), 1);
    assert_whole(&aws, &image).await;
}

#[tokio::test]
async fn lost_replies_and_throttling_make_nothing_twice() {
    if !wanted() {
        return;
    }
    let (bed, folder) = (Bed::start(), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    let image = image(folder.path(), "image", &vec![1; 1 << 20]);
    let throttled = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message></Error>\
                     </Errors><RequestID>1</RequestID></Response>";
    bed.fault(&serde_json::json!([
        {"match": "^POST /snapshots$", "lose": true},
        {"match": "^PUT /snapshots/", "lose": true, "skip": 2, "count": 3},
        {"match": "^POST /snapshots/completion", "lose": true},
        {"match": "^RegisterImage$", "lose": true},
        {"match": "^DescribeSnapshots$", "status": 503, "body": throttled, "count": 2},
    ]));
    aws.put_machine_image(&image).await.unwrap();
    assert_eq!(aws.images().await.unwrap(), [image.id]);
    assert_eq!(aws.snapshots().await.unwrap().len(), 1);
    assert_whole(&aws, &image).await;
}

/// The image of a pod without containers, with the guest bundle of `scripts/guest`.
fn bootable_pod(folder: &Path) -> DiskImage {
    let guest = setting("I2KIT_GUEST")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest"), PathBuf::from);
    let pod = i2kit_spec::PodBoot {
        version: i2kit_spec::POD_BOOT_VERSION,
        pod: i2kit_spec::PodMeta { name: "empty".into(), namespace: "default".into(), ..Default::default() },
        grace_period_seconds: i2kit_spec::Seconds(2),
        health_port: 10256,
        ..Default::default()
    };
    let file = crate::erofs::TreeFile::file(i2kit_spec::POD_BOOT_PATH, serde_json::to_vec(&pod).unwrap());
    let pod = crate::erofs::write_tree(&[file]).unwrap();
    let part =
        Part { name: i2kit_spec::POD_PARTITION.into(), content: Digest::of(&pod), size: pod.len() as u64 };
    let layout = DiskLayout::new(Digest::of(&pod), [part]).unwrap();
    let segment = |name: &str, bytes: &[u8]| {
        crate::image::write_part(&folder.join(name), bytes).unwrap();
        Segment { file: Some(folder.join(name)), length: bytes.len() as u64 }
    };
    let end = gpt::HEAD_SIZE + pod.len() as u64;
    DiskImage {
        id: ImageId(Digest::of(&pod)),
        architecture: i2kit_spec::Architecture::Amd64,
        kernel: guest.join(i2kit_spec::GUEST_KERNEL),
        initrd: guest.join(i2kit_spec::GUEST_INITRD),
        cloud: Some(guest.join(i2kit_spec::GUEST_CLOUD)),
        stub: Some(guest.join(i2kit_spec::GUEST_STUB)),
        cmdline: i2kit_spec::cmdline::BASE.into(),
        segments: vec![
            segment("head", &gpt::head(&layout)),
            segment("pod", &pod),
            Segment { file: None, length: layout.size - gpt::TAIL_SIZE - end },
            segment("tail", &gpt::tail(&layout)),
        ],
    }
}

#[tokio::test]
async fn what_was_uploaded_boots_as_an_instance() {
    if !wanted() || !runs("I2KIT_TEST_QEMU") {
        return;
    }
    let (bed, folder) = (Bed::start_with(&["--boot"]), tempfile::tempdir().unwrap());
    let aws = bed.aws(folder.path()).await;
    let image = bootable_pod(folder.path());
    aws.put_machine_image(&image).await.unwrap();
    let registered = aws.machine_image(image.id).await.unwrap().unwrap();
    let run =
        aws.clients.ec2.run_instances().image_id(registered.image_id().unwrap()).min_count(1).max_count(1);
    let run = run.instance_type(aws_sdk_ec2::types::InstanceType::T3Nano).send().await.unwrap();
    let id = run.instances()[0].instance_id().unwrap().to_owned();
    let limit = Duration::from_secs(150);
    let console = eventually("the guest to speak", limit, || async {
        let said = aws.clients.ec2.get_console_output().instance_id(&id).latest(true).send().await;
        let said = said.map_err(error::failed("GetConsoleOutput"))?;
        let bytes =
            base64::Engine::decode(&base64::prelude::BASE64_STANDARD, said.output().unwrap_or_default());
        let text = String::from_utf8_lossy(&bytes.unwrap()).into_owned();
        Ok(text.contains("services, ").then_some(text))
    });
    let console = console.await.unwrap();
    assert!(console.contains("network, "), "{console}");
    // Terminating presses the power button, and the VM goes.
    aws.clients.ec2.terminate_instances().instance_ids(&id).send().await.unwrap();
    let gone = eventually("the VM to go", limit, || async {
        let state = fs::read_to_string(bed.folder.path().join("state.json")).unwrap_or_default();
        Ok((!state.contains(&id)).then_some(()))
    });
    gone.await.unwrap();
}
