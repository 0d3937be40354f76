"""Ways in which chat templates read messages, as far as they differ. A template's source tells."""

from dataclasses import dataclass

from router.intake.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TemplateStyle:
    """Wishes of a template for messages and tools, beside what all templates want."""

    knows_developer: bool = False  # it names this role
    takes_text_arguments: bool = False  # it appends a call's arguments to a text (DeepSeek)
    takes_null: bool = False  # it leaves out content that is null (DeepSeek)
    takes_thinking: bool = False  # it reads reasoning as `thinking` (GPT-OSS)
    needs_descriptions: bool = False  # it appends each tool's description to a text (GPT-OSS)


def style_of(tokenizer: Tokenizer) -> TemplateStyle:
    """Return the style of the model's template."""

    def has(*texts: str) -> bool:
        return any(map(tokenizer.template_mentions, texts))

    return TemplateStyle(
        knows_developer=has("developer"),
        takes_text_arguments=has("['arguments'] +", ".arguments +"),
        takes_null=has("['content'] is none", "['content'] is not none"),
        takes_thinking=has("message.thinking"),
        needs_descriptions=has("+ tool.description +"),
    )
