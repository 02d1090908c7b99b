<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use FilesystemIterator;
use PHPUnit\Framework\TestCase;
use RecursiveDirectoryIterator;
use RecursiveIteratorIterator;
use Tocsin\BreachNotification\Model\CheckRecord;

class TranslationsTest extends TestCase
{
    private const LANGUAGES = ['en_US', 'de_DE'];

    public function testEveryPhraseIsThereInEveryLanguage(): void
    {
        $said = self::said();
        self::assertGreaterThan(50, count($said));
        foreach (self::LANGUAGES as $language) {
            $known = self::dictionary($language);
            self::assertSame([], array_values(array_diff($said, array_keys($known))), "missing in i18n/$language.csv");
            foreach ($known as $phrase => $translation) {
                self::assertSame(self::places($phrase), self::places($translation), "$language: $phrase");
            }
        }
    }

    public function testEnglishIsWhatTheCodeSays(): void
    {
        foreach (self::dictionary('en_US') as $phrase => $translation) {
            self::assertSame($phrase, $translation);
        }
    }

    /**
     * @return string[] every text in __() and every label of the XML
     */
    public static function said(): array
    {
        $said = array_merge(CheckRecord::KINDS, CheckRecord::SENSITIVITIES);
        $module = dirname(__DIR__, 2);
        $files = new RecursiveIteratorIterator(new RecursiveDirectoryIterator($module, FilesystemIterator::SKIP_DOTS));
        foreach ($files as $file) {
            if (strpos($file->getPathname(), "$module/Test/") === 0) {
                continue;
            }
            if (in_array($file->getExtension(), ['php', 'phtml'], true)) {
                $said = array_merge($said, self::saidInPhp((string)file_get_contents($file->getPathname())));
            }
            if ($file->getExtension() === 'xml') {
                foreach (simplexml_load_file($file->getPathname())->xpath('//*[@translate]') as $element) {
                    foreach (preg_split('/[ ,]+/', (string)$element['translate']) as $name) {
                        $said[] = $name === 'true' ? (string)$element : (string)($element[$name] ?? $element->$name);
                    }
                }
            }
        }
        return array_values(array_unique($said));
    }

    /**
     * @return string[]
     */
    private static function saidInPhp(string $code): array
    {
        $said = [];
        $tokens = array_values(array_filter(
            token_get_all($code),
            static fn ($token) => !is_array($token) || !in_array($token[0], [T_WHITESPACE, T_COMMENT, T_DOC_COMMENT], true)
        ));
        foreach ($tokens as $place => $token) {
            if (!is_array($token) || $token[1] !== '__' || $tokens[$place + 1] !== '(') {
                continue;
            }
            $phrase = '';
            for ($next = $place + 2; is_array($tokens[$next]) && $tokens[$next][0] === T_CONSTANT_ENCAPSED_STRING; $next += 2) {
                $phrase .= stripslashes(substr($tokens[$next][1], 1, -1));
                if ($tokens[$next + 1] !== '.') {
                    break;
                }
            }
            if ($phrase !== '') {
                $said[] = $phrase;
            }
        }
        return $said;
    }

    /**
     * @return array<string, string>
     */
    private static function dictionary(string $language): array
    {
        $known = [];
        $file = fopen(dirname(__DIR__, 2) . "/i18n/$language.csv", 'r');
        while (($line = fgetcsv($file, 0, ',', '"', '"')) !== false) {
            self::assertCount(2, $line, "$language: " . implode(',', $line));
            self::assertArrayNotHasKey($line[0], $known, "$language has it twice");
            $known[$line[0]] = $line[1];
        }
        return $known;
    }

    /**
     * @return string[] %1, %2 ... in order of their numbers
     */
    private static function places(string $text): array
    {
        preg_match_all('/%\d/', $text, $found);
        $places = array_unique($found[0]);
        sort($places);
        return $places;
    }
}
