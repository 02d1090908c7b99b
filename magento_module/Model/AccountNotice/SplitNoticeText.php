<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\AccountNotice;

/**
 * Finds headings, paragraphs and lists in a notice's plain text, so that it can be read as they are meant.
 */
class SplitNoticeText
{
    public const HEADING = 'heading';
    public const PARAGRAPH = 'paragraph';
    public const ITEMS = 'items';

    private const LONGEST_HEADING = 80;

    /**
     * Return the blocks of a text in their order: kind and lines, nothing escaped, no word left out.
     *
     * The text does not say what a heading is: it is one short line without a full stop, with something after it.
     *
     * @param string $text
     * @return array<int, array{kind: string, lines: string[]}>
     */
    public function execute(string $text): array
    {
        $blocks = [];
        $parts = preg_split('/\R[ \t]*\R/', trim($text)) ?: [];
        foreach (array_values(array_filter(array_map('trim', $parts), 'strlen')) as $number => $part) {
            $lines = array_map('trim', preg_split('/\R/', $part) ?: []);
            $items = array_filter($lines, static fn (string $line): bool => str_starts_with($line, '- '));
            if (count($items) === count($lines)) {
                $lines = array_map(static fn (string $line): string => substr($line, 2), $lines);
                $blocks[] = ['kind' => self::ITEMS, 'lines' => $lines];
            } elseif ($number < count($parts) - 1 && $this->isHeading($lines)) {
                $blocks[] = ['kind' => self::HEADING, 'lines' => $lines];
            } else {
                $blocks[] = ['kind' => self::PARAGRAPH, 'lines' => $lines];
            }
        }
        return $blocks;
    }

    /**
     * Return whether the lines are one short line that ends no sentence.
     *
     * @param string[] $lines
     * @return bool
     */
    private function isHeading(array $lines): bool
    {
        return count($lines) === 1
            && mb_strlen($lines[0]) <= self::LONGEST_HEADING
            && !preg_match('/[.!:;,]$/u', $lines[0]);
    }
}
