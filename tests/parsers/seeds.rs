//! What the inputs of each target are made of: small ones that are right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use i2kit::cloud::aws::plan::block_table;
use i2kit::cloud::local::packets::parse::{ICMP, SYN, TCP};
use i2kit::cloud::local::packets::{build, checksum};
use i2kit::disk::gpt;
use i2kit::erofs::{TreeFile, write_tree};
use i2kit::oci::Digest;
use i2kit::plan::layout::{ALIGNMENT, DiskLayout, Guid, Partition};
use i2kit_spec::control::{LogHead, Message};
use i2kit_spec::identity::{Identity, SEED_BYTES, encode_identity};
use i2kit_spec::secrets::{SECRETS_HEADER, SecretValues, encode_secrets};
use tar::EntryType;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Tables of a disk with three blocks, which bytes follow, and of one without any.
pub(crate) fn block_table() -> Vec<Vec<u8>> {
    let map = BTreeMap::from([(0, [1; 32]), (7, [2; 32]), (2046, [3; 32])]);
    let mut three = block_table::write(2048, &map).expect("three are not too many");
    three.extend([0; 64]);
    vec![three, block_table::write(2048, &BTreeMap::new()).expect("none are not too many")]
}

/// Messages of a guest and of a host.
pub(crate) fn control() -> Vec<Vec<u8>> {
    let head = LogHead { container: "web".into(), run: 1, first: 7, dropped: 0 };
    let lines = b"2026-01-01T00:00:00.1Z stdout F line\n".to_vec();
    let messages = [
        Message::Log { head, lines },
        Message::Resize { stream: 3, rows: 24, columns: 80 },
        Message::Close { stream: 3 },
    ];
    let mut all = Vec::new();
    for message in messages {
        message.encode(&mut all).expect("it is short");
    }
    vec![all]
}

/// A question, and an answer to the one that the target asks.
pub(crate) fn dns() -> Vec<Vec<u8>> {
    let question =
        b"\x07\x09\x01\0\0\x01\0\0\0\0\0\x01\x01a\x01b\x03svc\x07cluster\x05local\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
    let answer = b"\x07\x09\x81\x80\0\x01\0\x01\0\0\0\0\x02db\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    vec![question.to_vec(), answer.to_vec()]
}

/// An image with a folder, files of two lengths and a link.
pub(crate) fn erofs() -> Vec<Vec<u8>> {
    let files = [
        TreeFile::directory("etc"),
        TreeFile::file("etc/hostname", "web\n"),
        TreeFile::file("data", vec![b'x'; 5000]),
        TreeFile::symlink("name", "etc/hostname"),
    ];
    vec![write_tree(&files).expect("these files are an image")]
}

/// A table of two partitions, as far as its entries reach, and one without any whose disk is of two sectors.
pub(crate) fn gpt() -> Vec<Vec<u8>> {
    let partition = |name: &str, number: u64| Partition {
        name: name.into(),
        guid: Guid::from_bytes([7; 16]),
        offset: number * ALIGNMENT,
        length: 8192,
    };
    let layout = DiskLayout {
        guid: Guid::from_bytes([9; 16]),
        partitions: vec![partition("pod", 1), partition("layer", 2)],
        size: 4 * ALIGNMENT,
    };
    let mut head = gpt::head(&layout);
    assert_eq!(gpt::parse(&head).expect("it is our own table"), layout);
    head.truncate(1024 + 128 * 128);
    let mut small = head.clone();
    small[1024..].fill(0);
    small[544..552].copy_from_slice(&1_u64.to_le_bytes());
    vec![head, small]
}

/// Hosts and paths.
pub(crate) fn http_routing() -> Vec<Vec<u8>> {
    texts(&["a.test:80\n/a/b?c=d", "B.a.Test\n/%41/./../x//y", "[::1]:443\n/", "10.0.0.1\n/\u{e9}"])
}

/// An identity, and another one behind the beginning of one that was cut off.
pub(crate) fn identity() -> Vec<Vec<u8>> {
    let parameters = "i2kit.instance=web-1 i2kit.net=10.0.2.15/24".to_owned();
    let identity =
        Identity { parameters, hardware: Some([2, 0, 10, 78, 1, 1]), time: 7, seed: [9; SEED_BYTES] };
    let message = encode_identity(&identity).expect("it is short");
    vec![message.clone(), [&message[..40], &message[..]].concat()]
}

/// A tar with entries of several kinds.
pub(crate) fn layer() -> Vec<Vec<u8>> {
    let entries = [
        (EntryType::Directory, "d", "", ""),
        (EntryType::Regular, "d/file", "", "text\n"),
        (EntryType::XHeader, "pax", "", "20 path=d/long-name\n"),
        (EntryType::Regular, "d/short", "", "more"),
        (EntryType::Symlink, "d/link", "file", ""),
        (EntryType::Link, "d/same", "d/file", ""),
        (EntryType::Regular, "d/.wh.gone", "", ""),
    ];
    tars(&entries)
}

/// As [`layer`], with nothing but what `cp` takes.
pub(crate) fn unpack() -> Vec<Vec<u8>> {
    let entries = [
        (EntryType::Directory, "d", "", ""),
        (EntryType::Regular, "d/file", "", "text\n"),
        (EntryType::Symlink, "d/link", "../o/s", ""),
        (EntryType::Link, "d/same", "d/file", ""),
    ];
    let through_link = [(EntryType::Symlink, "d", "../o", ""), (EntryType::Regular, "d/s", "", "x")];
    [tars(&entries), tars(&through_link)].concat()
}

/// A tar of entries, each its kind, path, target and content: as it is, and with the checksums of all blocks made right. That
/// one has no blocks of zeros at its end, which would not stay zeros.
fn tars(entries: &[(EntryType, &str, &str, &str)]) -> Vec<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, target, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        let added = if target.is_empty() {
            tar.append_data(&mut header, path, content.as_bytes())
        } else {
            tar.append_link(&mut header, path, target)
        };
        added.expect("memory takes it");
    }
    let whole = tar.into_inner().expect("memory takes it");
    let without_end = &whole[..whole.len() - 1024];
    vec![[&[0][..], &whole[..]].concat(), [&[0xff][..], without_end].concat()]
}

/// Manifests in the long form and in the short one.
pub(crate) fn manifest() -> Vec<Vec<u8>> {
    texts(&[
        include_str!("../../manifests/short.yaml"),
        include_str!("../../manifests/job.yaml"),
        include_str!("../findings/network-policy.yaml"),
    ])
}

/// References and a configuration.
pub(crate) fn oci() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"layer");
    let mut seeds = texts(&[
        "registry.example:5000/a/b:1.27",
        r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["x"],"User":"web","ExposedPorts":{"80/tcp":{}}},"rootfs":{"diff_ids":null}}"#,
    ]);
    seeds.push(format!("nginx@{digest}").into_bytes());
    seeds
}

/// A manifest, an index that is a layout's too, a list of an archive, and a configuration.
pub(crate) fn oci_documents() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"layer");
    let blob = |kind: &str| {
        format!(r#""mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":5"#)
    };
    let (config, layer, manifest) =
        (blob("config.v1+json"), blob("layer.v1.tar+gzip"), blob("manifest.v1+json"));
    let platform = r#""platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#;
    let named = r#""annotations":{"org.opencontainers.image.ref.name":"1"}"#;
    texts(&[
        &format!(r#"{{"schemaVersion":2,"config":{{{config}}},"layers":[{{{layer}}}]}}"#),
        &format!(r#"{{"schemaVersion":2,"manifests":[{{{manifest},{platform}}},{{{manifest},{named}}}]}}"#),
        r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["a/layer.tar","b/layer.tar"]}]"#,
        &format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"diff_ids":["{digest}"]}}}}"#),
    ])
}

/// Three packets, each behind its length, of both versions of IP.
pub(crate) fn packets() -> Vec<Vec<u8>> {
    let v4 = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(192, 0, 2, 1)].map(IpAddr::V4);
    let v6 = [1, 2].map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)));
    let datagrams = |[from, to]: [IpAddr; 2], length: usize| {
        let data = vec![b'x'; length];
        build::udp(SocketAddr::new(from, 4000), SocketAddr::new(to, 53), &data, 7).expect("it fits")
    };
    // A SYN and an echo request.
    let mut segment = [&[0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN][..], &[0; 6]].concat();
    let sum = checksum::transport(v4[0], v4[1], TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let single = [
        build::ip(v4[0], v4[1], TCP, 64, 1, &segment).expect("it fits"),
        build::ip(v4[0], v4[1], ICMP, 64, 2, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]).expect("it fits"),
    ];
    let mixed = [datagrams(v4, 20), single.to_vec()].concat();
    [mixed, datagrams(v6, 3000)]
        .iter()
        .map(|packets| {
            let length = |packet: &Vec<u8>| u16::try_from(packet.len()).expect("it fits").to_be_bytes();
            packets.iter().flat_map(|packet| [&length(packet)[..], packet.as_slice()].concat()).collect()
        })
        .collect()
}

/// A profile with rules of all kinds.
pub(crate) fn seccomp() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[
        {"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":null},
        {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
        {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}}]}"#,
    ])
}

/// A message, and its body alone.
pub(crate) fn secrets() -> Vec<Vec<u8>> {
    let keys = |value: &str| BTreeMap::from([("key".to_owned(), value.as_bytes().to_vec())]);
    let values = SecretValues::from([("a".to_owned(), keys("value")), ("b".to_owned(), keys(""))]);
    let message = encode_secrets(&values).expect("it is short");
    let body = message[SECRETS_HEADER..].to_vec();
    vec![message, body]
}

/// Consoles of a machine that runs and of one that has ended.
pub(crate) fn console() -> Vec<Vec<u8>> {
    texts(&[
        "[    0.1] Linux\r\ni2kit: phase network\r\nweb | GET / 200\r\nweb | a | b\r\n",
        "web | x\r\ni2kit: end {\"succeeded\":false,\"reason\":\"DeadlineExceeded\",\"message\":\"5 s\",\"containers\":[{\"name\":\"job\",\"exitCode\":4,\"reason\":\"Error\",\"restarts\":2}]}\r\nreboot: Power down\r\n",
    ])
}

/// Answers with a status, over a connection that is kept, and without one.
pub(crate) fn status() -> Vec<Vec<u8>> {
    let status = r#"{"version":1,"bootId":"b-1","phase":{"name":"starting","waits":[{"for":"boot"},{"for":"startupProbe","container":"web","failure":"no"}]},"containers":[{"name":"web","ready":false,"restarts":1,"state":"Running","usage":{"cpuNanoseconds":1,"workingSetBytes":2}}]}"#;
    let head =
        format!("Content-Length: {}\r\nConnection: keep-alive\r\nX-I2kit-Status-Tag: a1", status.len());
    texts(&[
        status,
        &format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{status}"),
        "HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nthe state record cannot be read\n",
    ])
}
