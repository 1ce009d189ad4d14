//! Parsers of outside bytes, given inputs that are made of right ones by small changes. A file a parser: its `run` says what
//! holds for any bytes, and is the body of the fuzz target of the same name in `fuzz/fuzz_targets`, so that no target stays
//! behind the code. [`seeds`] has the inputs to begin with, `tests/support/mutations.rs` changes them.
//!
//! Parsers that nothing outside of their crate reaches have such tests beside them, with the same changes.

mod block_table;
mod checksums;
mod console;
mod control;
mod dns;
mod erofs;
mod gpt;
mod http_routing;
mod identity;
mod layer;
mod manifest;
#[path = "../support/mutations.rs"]
mod mutations;
mod oci;
mod oci_documents;
mod packets;
mod seccomp;
mod secrets;
mod seeds;
mod status;
mod unpack;

use std::io::Cursor;
use std::net::Ipv4Addr;

use i2kit::cloud::aws::plan;
use i2kit::cloud::local::dns::{Reply, Zone, reply};
use i2kit::cloud::local::packets::parse;
use i2kit::cloud::local::{pod_end, read_answer};
use i2kit::oci::manifest::parse as document;
use i2kit::oci::{ImageConfig, Reference};
use i2kit::plan::seccomp::Profile;
use i2kit_spec::control::Decoder;
use i2kit_spec::identity::take_identity;
use i2kit_spec::secrets::decode_secrets;
use i2kit_spec::status::PodStatus;

use self::mutations::survive;

#[test]
fn tables_of_blocks_read_back_as_themselves() {
    survive(&seeds::block_table(), 4000, block_table::run);
}

#[test]
fn lines_and_ends_of_consoles_are_read() {
    survive(&seeds::console(), 3000, console::run);
}

#[test]
fn messages_of_the_control_channel_are_found() {
    survive(&seeds::control(), 200, control::run);
}

#[test]
fn questions_and_answers_of_dns_are_read() {
    survive(&seeds::dns(), 4000, dns::run);
}

#[test]
fn images_of_erofs_are_dumped_or_refused() {
    survive(&seeds::erofs(), 1000, erofs::run);
}

#[test]
fn partition_tables_read_back_as_themselves() {
    survive(&seeds::gpt(), 500, gpt::run);
}

#[test]
fn hosts_and_paths_are_normal_once_they_are_read() {
    survive(&seeds::http_routing(), 4000, http_routing::run);
}

#[test]
fn identities_are_found_however_their_bytes_come() {
    survive(&seeds::identity(), 3000, identity::run);
}

#[test]
fn layers_become_images_or_are_refused() {
    survive(&seeds::layer(), 500, layer::run);
}

#[test]
fn manifests_are_read_and_converted() {
    survive(&seeds::manifest(), 100, manifest::run);
}

#[test]
fn references_survive_being_printed() {
    survive(&seeds::oci(), 4000, oci::run);
}

#[test]
fn documents_of_images_are_read_or_refused() {
    survive(&seeds::oci_documents(), 2000, oci_documents::run);
}

#[test]
fn packets_are_answered_with_packets() {
    survive(&seeds::packets(), 3000, packets::run);
}

#[test]
fn profiles_become_filters_or_are_refused() {
    survive(&seeds::seccomp(), 2000, seccomp::run);
}

#[test]
fn secrets_are_the_same_once_they_are_written_again() {
    survive(&seeds::secrets(), 4000, secrets::run);
}

#[test]
fn answers_of_guests_are_read_or_refused() {
    survive(&seeds::status(), 3000, status::run);
}

#[test]
fn nothing_outside_of_the_target_of_cp_changes() {
    survive(&seeds::unpack(), 500, unpack::run);
}

/// Changes of what no parser takes reach little of it.
#[test]
fn seeds_are_what_parsers_take() {
    assert!(pod_end(&seeds::console()[1]).is_some());
    let mut decoder = Decoder::default();
    decoder.push(&seeds::control()[0]);
    assert_eq!(decoder.count(), 3);
    assert!(i2kit::erofs::dump(Cursor::new(&seeds::erofs()[0])).is_ok());
    let mut image = Cursor::new(Vec::new());
    assert!(i2kit::erofs::write_layer(&seeds::layer()[0][1..], &mut image).is_ok());
    let zone = Zone::from([("a.b.svc.cluster.local".to_owned(), Ipv4Addr::LOCALHOST)]);
    assert!(matches!(reply(&seeds::dns()[0], &zone), Some(Reply::Answer(_))));
    assert!(seeds::block_table().iter().all(|seed| plan::block_table::read(seed).is_some()));
    let oci = seeds::oci();
    assert!([0, 2].iter().all(|at| String::from_utf8_lossy(&oci[*at]).parse::<Reference>().is_ok()));
    assert!(serde_json::from_slice::<ImageConfig>(&oci[1]).is_ok());
    assert!(seeds::oci_documents()[..2].iter().all(|seed| document(seed).is_ok()));
    let packets = seeds::packets();
    assert!(packets.iter().all(|seed| parse::ip(&seed[2..]).is_some()));
    assert!(seeds::seccomp().iter().all(|seed| Profile::parse(&String::from_utf8_lossy(seed)).is_ok()));
    assert!(decode_secrets(&seeds::secrets()[1]).is_ok());
    assert!(
        seeds::identity().iter().all(|seed| take_identity(&mut seed.clone()).is_ok_and(|one| one.is_some()))
    );
    let status = seeds::status();
    assert!(serde_json::from_slice::<PodStatus>(&status[0]).is_ok());
    let answer = futures::executor::block_on(read_answer(&status[1][..])).expect("it is an answer");
    assert!(answer.is_kept && answer.body == status[0] && answer.tag.as_deref() == Some("a1"));
}
