<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use DateTimeImmutable;
use DateTimeZone;
use Exception;

/**
 * Checks all of a record that can be checked without the database.
 *
 * Magento's connections run with an empty sql_mode: what is not refused here is cut or bent silently by the database.
 */
class CheckRecord
{
    public const KINDS = ['synthetic', 'derived', 'inferred', 'real'];
    public const SENSITIVITIES = ['low', 'medium', 'high', 'critical'];

    /**
     * Longest texts in characters, as db_schema.xml has them. true: must be given.
     */
    private const TEXTS = [
        'attribute' => [255, true],
        'model_id' => [128, true],
        'model_version' => [128, true],
        'run_id' => [128, false],
        'dataset_version' => [128, false],
        'source_system' => [128, false],
        'storage_location' => [255, false],
        'legal_basis' => [64, false],
    ];
    private const IDS = ['entity_id' => true, 'customer_id' => false, 'order_id' => false];
    private const LISTS = ['categories', 'elements', 'input_fields'];
    private const OTHERS = [
        'record_id', 'root', 'entity_type', 'generated_at', 'supersedes', 'kind', 'confidence', 'sensitivity',
    ];
    private const RECORD_ID = '/\A[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\z/';
    private const ENTITY_TYPE = '/\A[a-z][a-z0-9_]{0,63}\z/';
    private const ROOT = '/\A(customer|order)\/[1-9][0-9]{0,9}\z/';
    private const INSTANT = '/\A\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)?\z/';
    /**
     * Control characters, and what takes four bytes: Magento's connections say SET NAMES utf8, and such become "????".
     */
    private const UNFIT = '/[\x00-\x1f\x7f]|[\x{10000}-\x{10FFFF}]/u';
    private const GREATEST_ID = 4294967295;
    private const MOST_WORDS = 100;
    private const LONGEST_WORD = 128;
    /**
     * Clocks differ: a time this many seconds ahead is not yet the future.
     */
    private const CLOCK_SKEW_SECONDS = 60;

    /**
     * Return the row that the record would become, with every fault that was found.
     *
     * @param mixed $record fields by name
     */
    public function execute($record, DateTimeImmutable $now): CheckedRecord
    {
        $checked = new CheckedRecord();
        if (!is_array($record) || ($record !== [] && array_is_list($record))) {
            $checked->refuse('record', (string)__('is no object with the fields of a record'));
            return $checked;
        }
        $this->checkNames($record, $checked);
        $this->checkRecordIds($record, $checked);
        $this->checkSubject($record, $checked);
        foreach (self::TEXTS as $field => [$longest, $needed]) {
            $checked->row[$field] = $this->text($field, $record[$field] ?? null, $longest, $needed, $checked);
        }
        $checked->row['kind'] = $this->member('kind', $record['kind'] ?? null, self::KINDS, $checked);
        $checked->row['sensitivity'] =
            $this->member('sensitivity', $record['sensitivity'] ?? null, self::SENSITIVITIES, $checked);
        $checked->row['confidence'] = $this->confidence($record['confidence'] ?? null, $checked);
        foreach (self::LISTS as $field) {
            $words = $this->words($field, $record[$field] ?? null, $checked);
            $checked->row[$field] = $words === [] && $field === 'input_fields' ? null : json_encode(
                $words,
                JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES
            );
        }
        if (($record['generated_at'] ?? null) === null) {
            $checked->refuse('generated_at', (string)__('is needed: when the model wrote'));
        } else {
            $checked->row['generated_at'] = $this->instant('generated_at', $record['generated_at'], $now, $checked);
        }
        return $checked;
    }

    /**
     * Return an instant as the database keeps it (UTC, to the second), or null with the reason in $checked.
     *
     * A fraction of a second is cut off; with $upwards it counts as a whole one.
     *
     * @param mixed $given
     */
    public function instant(
        string $field,
        $given,
        DateTimeImmutable $now,
        CheckedRecord $checked,
        bool $upwards = false
    ): ?string {
        $utc = new DateTimeZone('UTC');
        $at = null;
        if (is_string($given) && preg_match(self::INSTANT, $given)) {
            try {
                $at = (new DateTimeImmutable($given, $utc))->setTimezone($utc);
            } catch (Exception $e) {
                $at = null;
            }
        }
        // PHP takes the 31st of February for the 3rd of March.
        if ($at === null || !checkdate(
            (int)substr((string)$given, 5, 2),
            (int)substr((string)$given, 8, 2),
            (int)substr((string)$given, 0, 4)
        ) || (int)substr((string)$given, 11, 2) > 23 || (int)substr((string)$given, 14, 2) > 59
            || (int)substr((string)$given, 17, 2) > 59
        ) {
            $checked->refuse($field, (string)__(
                'is %1, not a time such as 2026-03-01T10:00:00Z (UTC if no zone is given)',
                $this->shown($given)
            ));
            return null;
        }
        if ($upwards && (int)$at->format('u') > 0) {
            $at = $at->modify('+1 second');
        }
        if ($at->getTimestamp() > $now->getTimestamp() + self::CLOCK_SKEW_SECONDS) {
            $checked->refuse($field, (string)__('is %1, which lies in the future', $this->shown($given)));
            return null;
        }
        if ((int)$at->format('Y') < 1970) {
            $checked->refuse($field, (string)__('is %1, which lies before 1970', $this->shown($given)));
            return null;
        }
        return $at->format('Y-m-d H:i:s');
    }

    /**
     * @param mixed[] $record
     */
    private function checkNames(array $record, CheckedRecord $checked): void
    {
        $known = array_merge(array_keys(self::TEXTS), array_keys(self::IDS), self::LISTS, self::OTHERS);
        foreach ($record as $field => $value) {
            if (in_array($field, $known, true)) {
                continue;
            }
            // What reading shows beside what can be written.
            if ($field === 'deleted_at' || $field === 'created_at') {
                if ($value !== null) {
                    $checked->refuse($field, (string)($field === 'deleted_at'
                        ? __('is set by retiring the record, not by recording it') : __('is set by the store')));
                }
                continue;
            }
            $checked->refuse($this->clipped((string)$field), (string)__('is no field of a record'));
        }
    }

    /**
     * @param mixed[] $record
     */
    private function checkRecordIds(array $record, CheckedRecord $checked): void
    {
        foreach (['record_id', 'supersedes'] as $field) {
            $given = $record[$field] ?? null;
            $checked->row[$field] = null;
            if ($given === null || $given === '') {
                continue;
            }
            if (!is_string($given) || !preg_match(self::RECORD_ID, $given)) {
                $checked->refuse($field, (string)__(
                    'must have 1 to 64 characters of A-Z a-z 0-9 . _ : - and begin with a letter or digit'
                ));
                continue;
            }
            $checked->row[$field] = $given;
        }
        if ($checked->row['supersedes'] !== null && $checked->row['supersedes'] === $checked->row['record_id']) {
            $checked->refuse('supersedes', (string)__('names the record itself'));
        }
    }

    /**
     * @param mixed[] $record
     */
    private function checkSubject(array $record, CheckedRecord $checked): void
    {
        $type = $record['entity_type'] ?? null;
        $checked->row['entity_type'] = null;
        if (!is_string($type) || !preg_match(self::ENTITY_TYPE, $type)) {
            $checked->refuse('entity_type', (string)__(
                'must be customer, customer_address, order, or another name of up to 64 characters of a-z 0-9 _'
            ));
        } else {
            $checked->row['entity_type'] = $type;
        }
        foreach (self::IDS as $field => $needed) {
            $given = $record[$field] ?? null;
            $checked->row[$field] = null;
            if ($given === null && !$needed) {
                continue;
            }
            $number = is_int($given) || (is_string($given) && preg_match('/\A[0-9]{1,10}\z/', $given))
                ? (int)$given : 0;
            if ($number < 1 || $number > self::GREATEST_ID) {
                $checked->refuse($field, (string)__('is %1, not a whole number above 0', $this->shown($given)));
                continue;
            }
            $checked->row[$field] = $number;
        }
        $root = $record['root'] ?? null;
        $checked->row['root'] = null;
        if ($root !== null && (!is_string($root) || !preg_match(self::ROOT, $root))) {
            $checked->refuse('root', (string)__('must be customer/<id> or order/<id>; leave it out to have it filled'));
        } else {
            $checked->row['root'] = $root;
        }
    }

    /**
     * @param mixed $given
     */
    private function text(string $field, $given, int $longest, bool $needed, CheckedRecord $checked): ?string
    {
        if ($given === null || $given === '') {
            if ($needed) {
                $checked->refuse($field, (string)__('is needed'));
            }
            return null;
        }
        if (is_int($given) || is_float($given)) {
            $given = (string)$given; // "model_version": 7
        }
        if (!is_string($given) || !mb_check_encoding($given, 'UTF-8')) {
            $checked->refuse($field, (string)__('is no text'));
            return null;
        }
        $length = mb_strlen($given, 'UTF-8');
        if ($length > $longest) {
            $checked->refuse($field, (string)__('has %1 characters; %2 are the most', $length, $longest));
            return null;
        }
        if (preg_match(self::UNFIT, $given) || trim($given) !== $given) {
            $checked->refuse($field, (string)__(
                'begins or ends with a blank, or holds control characters or such as emoji, which the store cannot keep'
            ));
            return null;
        }
        return $given;
    }

    /**
     * @param mixed $given
     * @param string[] $members
     */
    private function member(string $field, $given, array $members, CheckedRecord $checked): ?string
    {
        if (is_string($given) && in_array($given, $members, true)) {
            return $given;
        }
        $checked->refuse($field, (string)__('is %1; it must be one of %2', $this->shown($given), implode(', ', $members)));
        return null;
    }

    /**
     * @param mixed $given
     */
    private function confidence($given, CheckedRecord $checked): ?string
    {
        if ($given === null || $given === '') {
            return null;
        }
        if (is_bool($given) || !is_numeric($given) || (float)$given < 0.0 || (float)$given > 1.0) {
            $checked->refuse('confidence', (string)__('is %1, not a number from 0 to 1', $this->shown($given)));
            return null;
        }
        return number_format((float)$given, 4, '.', '');
    }

    /**
     * A list of words, or a text that holds one as JSON.
     *
     * @param mixed $given
     * @return string[]
     */
    private function words(string $field, $given, CheckedRecord $checked): array
    {
        if ($given === null) {
            return [];
        }
        if (is_string($given)) {
            $given = json_decode($given, true);
        }
        if (!is_array($given) || !array_is_list($given)) {
            $checked->refuse($field, (string)__('is no JSON list of texts'));
            return [];
        }
        if (count($given) > self::MOST_WORDS) {
            $checked->refuse($field, (string)__('has %1 entries; %2 are the most', count($given), self::MOST_WORDS));
            return [];
        }
        $words = [];
        foreach ($given as $place => $word) {
            if (!is_string($word) || trim($word) === '' || !mb_check_encoding($word, 'UTF-8')
                || mb_strlen($word, 'UTF-8') > self::LONGEST_WORD || preg_match(self::UNFIT, $word)
            ) {
                $checked->refuse($field, (string)__(
                    'has at place %1 something other than a text of 1 to %2 characters',
                    $place,
                    self::LONGEST_WORD
                ));
                return [];
            }
            $words[trim($word)] = true;
        }
        return array_map('strval', array_keys($words));
    }

    /**
     * @param mixed $given
     */
    private function shown($given): string
    {
        if (is_array($given) || is_object($given)) {
            return 'no single value';
        }
        return $given === null ? 'missing' : $this->clipped((string)json_encode($given, JSON_PARTIAL_OUTPUT_ON_ERROR));
    }

    private function clipped(string $text): string
    {
        return mb_strlen($text, 'UTF-8') > 40 ? mb_substr($text, 0, 39, 'UTF-8') . '…' : $text;
    }
}
