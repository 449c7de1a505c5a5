//! Every rule of HTTP/1 for which a request is refused before hyper sees it, and every limit.

/// The longest head, and what a connection buffers of a body (hyper's own default is 400 KiB).
pub(in crate::proxy::client) const MAX_HEAD: usize = 64 * 1024;
/// The most headers of a request.
pub(in crate::proxy::client) const MAX_FIELDS: usize = 128;
/// Longer methods are nobody's, and would fill logs. The longest registered one has 17 characters.
pub(in crate::proxy) const LONGEST_METHOD: usize = 32;

/// A rule that a client's bytes break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a line ends with CR and LF, not with LF alone")]
    BareLf,
    #[error("a CR stands at the end of a line and nowhere else")]
    BareCr,
    #[error("the first line is `method target version`, with one space between them")]
    RequestLine,
    #[error("the method is no token, or longer than any method is")]
    Method,
    #[error("CONNECT is for proxies that open tunnels, which this one does not")]
    Connect,
    #[error("only OPTIONS has the target *")]
    Asterisk,
    #[error("the target has a fragment, which is the client's own affair")]
    Fragment,
    #[error("the target has a character that must be percent-encoded")]
    TargetCharacter,
    #[error("the target is a path, or http:// or https:// with a host that is well-formed")]
    Target,
    #[error("the version is no HTTP version")]
    Version,
    #[error("a header's line begins with white space: folded lines are obsolete")]
    Folded,
    #[error("a header's line has no colon")]
    NoColon,
    #[error("a header's name is no token; no space stands before the colon")]
    FieldName,
    #[error("a header's value has a control character")]
    FieldValue,
    #[error("Content-Length is one number")]
    ContentLength,
    #[error("a request has one Content-Length")]
    RepeatedContentLength,
    #[error("the only transfer coding that a request may have is chunked, once")]
    TransferEncoding,
    #[error("an HTTP/1.0 request has no Transfer-Encoding")]
    OldTransferEncoding,
    #[error("a request has Transfer-Encoding or Content-Length, not both")]
    TwoLengths,
    #[error("a chunk's size is malformed")]
    ChunkSize,
    #[error("a chunk's extension has a control character")]
    ChunkExtension,
    #[error("a chunk is not as long as its size says")]
    ChunkEnd,
    #[error("the target is longer than {} KiB", MAX_HEAD / 1024)]
    TargetTooLong,
    #[error("the head is longer than {} KiB", MAX_HEAD / 1024)]
    HeadTooLong,
    #[error("the request has more than {} headers", MAX_FIELDS)]
    TooManyFields,
    #[error("this is HTTP/1.0, HTTP/1.1 and HTTP/2")]
    UnknownVersion,
}

impl Refusal {
    /// All of them, in the order of their definition: a refusal travels to the service by its place.
    pub(crate) const ALL: [Self; 26] = [
        Self::BareLf,
        Self::BareCr,
        Self::RequestLine,
        Self::Method,
        Self::Connect,
        Self::Asterisk,
        Self::Fragment,
        Self::TargetCharacter,
        Self::Target,
        Self::Version,
        Self::Folded,
        Self::NoColon,
        Self::FieldName,
        Self::FieldValue,
        Self::ContentLength,
        Self::RepeatedContentLength,
        Self::TransferEncoding,
        Self::OldTransferEncoding,
        Self::TwoLengths,
        Self::ChunkSize,
        Self::ChunkExtension,
        Self::ChunkEnd,
        Self::TargetTooLong,
        Self::HeadTooLong,
        Self::TooManyFields,
        Self::UnknownVersion,
    ];
}
