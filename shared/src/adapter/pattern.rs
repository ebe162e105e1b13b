//! PEFT's rules from keys to modules, for keys that are literal module names.

/// Whether PEFT applies an entry of `rank_pattern` or `alpha_pattern` to a module: `re.match(rf"(.*\.)?({key})$", name)`
/// of `get_pattern_key` (PEFT 0.21). `name` is relative to the base model.
///
/// Exact for keys whose only special character is the dot, which stands for any one character there, as in PEFT. So a key
/// also applies to modules whose path ends in it.
pub fn key_matches(key: &str, name: &str) -> bool {
    let mut name_end = name.chars().rev();
    for wanted in key.chars().rev() {
        match name_end.next() {
            Some(found) if found == wanted || (wanted == '.' && found != '\n') => {}
            _ => return false,
        }
    }
    let mut before = name_end;
    match before.next() {
        None => true,
        // The dot that ends the prefix; `.*` before it does not cross lines.
        Some('.') => before.all(|c| c != '\n'),
        Some(_) => false,
    }
}

/// Whether PEFT adapts a module for an entry of a `target_modules` list: its full name, or the end of its path.
pub fn suffix_matches(target: &str, name: &str) -> bool {
    name.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISION: &str = "model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj";

    #[test]
    fn a_full_name_matches_its_module_and_no_other() {
        let key = "model.layers.3.self_attn.q_proj";
        assert!(key_matches(key, key));
        for other in ["model.layers.13.self_attn.q_proj", "model.layers.3.self_attn.k_proj", VISION, "q_proj", ""] {
            assert!(!key_matches(key, other), "{other}");
        }
    }

    #[test]
    fn a_shorter_key_also_matches_the_vision_tower() {
        let key = "layers.3.self_attn.q_proj";
        assert!(key_matches(key, "model.layers.3.self_attn.q_proj"));
        assert!(key_matches(key, VISION));
    }

    #[test]
    fn the_prefix_ends_at_a_dot_and_digits_do_not_collide() {
        assert!(!key_matches("layers.1.mlp.up_proj", "model.sublayers.1.mlp.up_proj"));
        assert!(!key_matches("1.mlp.up_proj", "model.layers.11.mlp.up_proj"));
        assert!(key_matches("1.mlp.up_proj", "model.layers.1.mlp.up_proj"));
        assert!(key_matches("model.layers.1.mlp.up_proj", "language_model.model.layers.1.mlp.up_proj"));
    }

    #[test]
    fn a_dot_of_the_key_stands_for_any_character_as_in_a_regular_expression() {
        assert!(key_matches("layers.1.mlp", "layers_1_mlp"));
        assert!(!key_matches("layers.1.mlp", "layers\n1.mlp"));
        assert!(!key_matches("layers_1", "layers.1"));
    }

    #[test]
    fn the_empty_key_matches_what_ends_in_a_dot() {
        assert!(key_matches("", ""));
        assert!(key_matches("", "model."));
        assert!(!key_matches("", "model"));
    }

    #[test]
    fn target_lists_match_whole_path_ends_literally() {
        assert!(suffix_matches("q_proj", "model.layers.0.self_attn.q_proj"));
        assert!(suffix_matches("q_proj", "q_proj"));
        assert!(!suffix_matches("q_proj", "model.layers.0.self_attn.my_q_proj"));
        assert!(!suffix_matches("self_attn.q_proj", "self_attn_q_proj"));
    }
}
