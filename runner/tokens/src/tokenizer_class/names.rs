//! Names of transformers 5.24.

use super::Class;

/// The class of a model type; `None` for `TokenizersBackend`. Those that this program trains on, and some
/// of the same kinds. `llama` has no specific class.
pub(super) const USUAL: [(&str, Option<Class>); 18] = [
    ("gemma", Some(Class::Gemma)),
    ("gemma2", Some(Class::Gemma)),
    ("gemma3", Some(Class::Gemma)),
    ("gemma3_text", Some(Class::Gemma)),
    ("gpt2", Some(Class::Gpt2)),
    ("gpt_neo", Some(Class::Gpt2)),
    ("gpt_neox", Some(Class::GptNeox)),
    ("gptj", Some(Class::Gpt2)),
    ("mistral", None),
    ("mixtral", None),
    ("olmo2", None),
    ("opt", Some(Class::Gpt2)),
    ("phi3", None),
    ("qwen2", Some(Class::Qwen2)),
    ("qwen3", Some(Class::Qwen2)),
    ("qwen3_5", Some(Class::Qwen3_5)),
    ("qwen3_moe", Some(Class::Qwen2)),
    ("t5", Some(Class::T5)),
];

/// Model types of these whose class counts, whatever tokenizer_config.json says.
pub(super) const DECLARED_WRONGLY: [&str; 3] = ["phi3", "qwen2", "qwen3_5"];

/// The classes that are not built in here. A name that is unknown there means `TokenizersBackend`.
#[rustfmt::skip]
pub(super) const NOT_BUILT_IN: [&str; 98] = [
    "AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BasicTokenizer",
    "BertGenerationTokenizer", "BertJapaneseTokenizer", "BertTokenizer", "BertweetTokenizer",
    "BigBirdTokenizer", "BioGptTokenizer", "BlenderbotSmallTokenizer", "BlenderbotTokenizer",
    "ByT5Tokenizer", "CLIPTokenizer", "CTRLTokenizer", "CamembertTokenizer", "CanineTokenizer",
    "CharacterTokenizer", "ClvpTokenizer", "CodeGenTokenizer", "CodeLlamaTokenizer",
    "CohereTokenizer", "ConvBertTokenizer", "CpmAntTokenizer", "CpmTokenizer",
    "DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer",
    "DebertaTokenizer", "DebertaV2Tokenizer", "DiaTokenizer", "DistilBertTokenizer", "EsmTokenizer",
    "EsmcTokenizer", "FNetTokenizer", "FSMTTokenizer", "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer", "FunnelTokenizer", "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer",
    "HerbertTokenizer", "LEDTokenizer", "LasrTokenizer", "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LukeTokenizer", "LxmertTokenizer",
    "M2M100Tokenizer", "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MPNetTokenizer",
    "MarianTokenizer", "MarkupLMTokenizer", "MecabTokenizer", "MgpstrTokenizer",
    "MobileBertTokenizer", "MvpTokenizer", "MyT5Tokenizer", "NllbTokenizer", "NougatTokenizer",
    "OpenAIGPTTokenizer", "PLBartTokenizer", "ParakeetTokenizer", "PegasusTokenizer",
    "PerceiverTokenizer", "PhobertTokenizer", "Pop2PianoTokenizer", "ProphetNetTokenizer",
    "RagTokenizer", "ReformerTokenizer", "RemBertTokenizer", "RoCBertTokenizer",
    "RoFormerTokenizer", "RobertaTokenizer", "SeamlessM4TTokenizer", "Siglip2Tokenizer",
    "SiglipTokenizer", "Speech2TextTokenizer", "SpeechT5Tokenizer", "SplinterTokenizer",
    "SqueezeBertTokenizer", "TapasTokenizer", "Tipsv2Tokenizer", "UdopTokenizer",
    "VideoPrismTokenizer", "VitsTokenizer", "Wav2Vec2CTCTokenizer", "Wav2Vec2PhonemeCTCTokenizer",
    "WhisperTokenizer", "WordpieceTokenizer", "XGLMTokenizer", "XLMRobertaTokenizer",
    "XLMTokenizer", "XLNetTokenizer",
];
