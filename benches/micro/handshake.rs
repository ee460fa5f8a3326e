//! The opening handshake.

use std::hint::black_box;

use divan::Bencher;
use wsgate::proto::handshake::{Offer, accept_key};

use crate::{
    AGREED, BROWSER, OFFER,
    heads::{request, response},
};

#[divan::bench]
fn offer_of_an_offer(bencher: Bencher<'_, '_>) {
    let head = request(OFFER);
    bencher.bench(|| Offer::from_head(black_box(&head)));
}

#[divan::bench]
fn offer_of_a_plain_request(bencher: Bencher<'_, '_>) {
    let head = request(BROWSER);
    bencher.bench(|| Offer::from_head(black_box(&head)));
}

#[divan::bench]
fn accept() -> String {
    accept_key(black_box("dGhlIHNhbXBsZSBub25jZQ=="))
}

#[divan::bench]
fn prove(bencher: Bencher<'_, '_>) {
    let offer = Offer::from_head(&request(OFFER)).expect("a legal handshake").expect("a handshake");
    let answer = response(AGREED);
    bencher.bench(|| offer.prove(black_box(&answer), true).is_ok());
}
