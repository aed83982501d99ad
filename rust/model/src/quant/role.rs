//! What a matrix does in its model: what backends decide precision by, and never its name.

/// The place of a matrix in a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token to vector; rows are looked up. A table that is the head too has the role [`Role::Head`].
    Embedding,
    /// Place in the sequence to vector.
    Positions,
    /// Into the queries, or into what is convolved in their place.
    Query,
    /// Into the keys.
    Key,
    /// Into the values.
    Value,
    /// From attention to the residual stream.
    Output,
    /// Into the activation of a feed-forward part.
    Gate,
    /// Beside the activation.
    Up,
    /// From the feed-forward part to the residual stream.
    Down,
    /// Into the scores of experts: a small change of them can mean other experts.
    Router,
    /// Into the logits.
    Head,
}
