//! Nothing but the right answer proves an offer.

use crate::proto::handshake::{Agreed, Offer, accept_key};
use crate::proto::head::{HeadLimits, RequestHead, ResponseHead};

/// Judges a request and the answer to it, which stand one after the other in `input`.
pub fn exchange(input: &[u8]) -> Option<Agreed> {
    let limits = HeadLimits::default();
    let (request, length) = RequestHead::parse(input, &limits).ok()??;
    let offer = Offer::from_head(&request).ok()??;
    assert!(request.method.is_get());
    assert_eq!(offer.key().len(), 24);
    assert_eq!(offer.accept().len(), 28);

    let (answer, _) = ResponseHead::parse(&input[length..], &limits).ok()??;
    let agreed = offer.prove(&answer, true).ok()?;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.headers.get("sec-websocket-accept"), Some(accept_key(offer.key()).as_bytes()));
    assert!(answer.headers.has_token("upgrade", "websocket"));
    assert!(answer.headers.get("sec-websocket-protocol").is_none_or(|chosen| {
        request.headers.tokens("sec-websocket-protocol").any(|offered| offered == chosen)
    }));
    assert_eq!(offer.prove(&answer, false), Ok(agreed), "it asks for less");
    Some(agreed)
}
