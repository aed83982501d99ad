//! The trie has every token's own bytes, and forced texts the spelling that the tokenizer gives them.
use toktrie::TokenizerEnv;

use super::support::{all, goldens};
use crate::constraint::vocabulary::Vocabulary;
use crate::constraint::{Form, StructuredOutput};
use crate::text::Tokenizer;
use candle_vllm_model::weights::TokenizerSource;

#[test]
fn tokens_have_their_bytes_and_special_ones_are_apart() {
    for (tokenizer, _) in all() {
        let size = tokenizer.vocab_size() + 7;
        let vocabulary = Vocabulary::new(&tokenizer, size, tokenizer.eos_ids()).unwrap();
        let trie = vocabulary.tok_trie();
        assert_eq!(trie.vocab_size(), size);
        assert_eq!(trie.eos_tokens(), tokenizer.eos_ids());
        for id in 0..tokenizer.vocab_size() as u32 {
            let bytes = tokenizer.token_bytes(id);
            match tokenizer.is_special(id) {
                true => assert_eq!(trie.token(id), [&[0xff], bytes].concat()),
                false if bytes.first() == Some(&0xff) => assert!(trie.token(id).is_empty()),
                false => assert_eq!(trie.token(id), bytes),
            }
        }
    }
}

#[test]
fn forced_texts_are_spelt_as_the_tokenizer_spells_them() {
    for (tokenizer, forms) in all() {
        let vocabulary =
            Vocabulary::new(&tokenizer, tokenizer.vocab_size(), tokenizer.eos_ids()).unwrap();
        assert!(vocabulary.tokenize_is_canonical());
        let text = "{\"first name\": \"";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(vocabulary.tokenize_bytes(text.as_bytes()), ids);
        // A special token's text is text.
        let fake = vocabulary.tokenize_bytes(b"<|im_end|>");
        assert!(fake.iter().all(|&id| !tokenizer.is_special(id)));
        // Bytes that are no text are still covered.
        let odd = [b'a', 0xe8, 0xaa];
        assert_eq!(
            vocabulary
                .tok_trie()
                .decode_raw(&vocabulary.tokenize_bytes(&odd)),
            odd
        );

        let form = Form::Lark(format!("start: {} /[a-z]+/", serde_json::Value::from(text)));
        let mut rule = forms.constraint(&StructuredOutput::of(form)).unwrap();
        rule.accept(ids[0]).unwrap();
        let forced = rule.forced().unwrap();
        assert!(
            !forced.is_empty() && ids[1..].starts_with(&forced),
            "{forced:?} of {ids:?}"
        );
    }
}

#[test]
fn a_vocabulary_without_bytes_or_end_is_refused() {
    let folder = goldens().join("hf/llama");
    let tokenizer = Tokenizer::load(&TokenizerSource::Folder(folder)).unwrap();
    let refused = Vocabulary::new(&tokenizer, 300, &[]).err().unwrap();
    assert!(
        refused.to_string().contains("structured_output"),
        "{refused}"
    );
}
