<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\FlagManager;
use Tocsin\BreachNotification\Model\ResourceModel\SummaryTable;

/**
 * Derives the summary attributes of customers from the provenance table, in batches.
 *
 * It runs in cron and so outside every save. First come customers with new records and with records retired since the
 * last run; then a slice of all, so that whatever that misses (SQL by hand, a late commit) is right after a while.
 * Only what differs is written.
 */
class SummarizeProvenance
{
    private const FLAG = 'tocsin_summary';
    private const BATCH = 1000;
    /**
     * Batches of one slice of the tour through all customers.
     */
    private const BATCHES_OF_TOUR = 5;
    /**
     * Row ids are given before they are committed: this many before the newest that was seen are looked at again.
     */
    private const OVERLAP_RECORDS = 10000;
    /**
     * deleted_at is set by clocks that differ, in transactions that last.
     */
    private const OVERLAP_SECONDS = 3600;
    /**
     * Bytes that fit into the column.
     */
    private const LONGEST_VALUE = 60000;

    private SummaryTable $table;
    private FlagManager $flags;
    /**
     * @var array<string, int> sensitivity => id of its option
     */
    private array $options = [];

    public function __construct(SummaryTable $table, FlagManager $flags)
    {
        $this->table = $table;
        $this->flags = $flags;
    }

    /**
     * @return int how many customers' summaries changed
     */
    public function execute(): int
    {
        $attributes = $this->table->attributeIds();
        if (count($attributes) < count(SummaryTable::ATTRIBUTES)) {
            return 0; // between the schema and the data patch of an installation
        }
        $this->options = $this->table->sensitivityOptions($attributes[SummaryTable::HIGHEST_SENSITIVITY]);
        $position = $this->flags->getFlagData(self::FLAG);
        $position = is_array($position) ? $position : [];
        $startedAt = time();
        $newest = $this->table->newestRecord();
        $changed = 0;
        $customer = 0;
        do {
            $customers = $this->table->changed(
                max(0, (int)($position['record'] ?? 0) - self::OVERLAP_RECORDS),
                gmdate('Y-m-d H:i:s', max(0, (int)($position['started_at'] ?? 0) - self::OVERLAP_SECONDS)),
                $customer,
                self::BATCH
            );
            $changed += $this->summarize($customers, $attributes);
            $customer = $customers === [] ? 0 : max($customers);
        } while (count($customers) === self::BATCH);
        $tour = (int)($position['tour'] ?? 0);
        for ($batch = 0; $batch < self::BATCHES_OF_TOUR; $batch++) {
            $customers = $this->table->summarized($tour, self::BATCH);
            $changed += $this->summarize($customers, $attributes);
            $tour = count($customers) < self::BATCH ? 0 : max($customers);
            if ($tour === 0) {
                break;
            }
        }
        // A crash before this line looks at the same customers again.
        $this->flags->saveFlag(self::FLAG, ['record' => $newest, 'started_at' => $startedAt, 'tour' => $tour]);
        return $changed;
    }

    /**
     * @param int[] $customers
     * @param array<string, int> $attributes
     */
    private function summarize(array $customers, array $attributes): int
    {
        if ($customers === []) {
            return 0;
        }
        $held = $this->table->held($customers);
        $before = $this->table->values($customers);
        $rows = [];
        $changed = [];
        foreach ($held as $customerId => $records) {
            foreach ($this->summary($records) as $code => $value) {
                $attributeId = $attributes[$code];
                $known = $before[$customerId][$attributeId] ?? null;
                if ($known === $value || ($known === null && $records === [])) {
                    continue;
                }
                $rows[] = ['attribute_id' => $attributeId, 'entity_id' => $customerId, 'value' => $value];
                $changed[$customerId] = true;
            }
        }
        $this->table->write($rows);
        return count($changed);
    }

    /**
     * @param array<int, array<string, mixed>> $records
     * @return array<string, string> attribute code => value
     */
    private function summary(array $records): array
    {
        $models = [];
        $highest = -1;
        foreach ($records as $record) {
            $models[$record['model_id'] . '@' . $record['model_version']] = true;
            $rank = array_search($record['sensitivity'], CheckRecord::SENSITIVITIES, true);
            // what is none of ours was written by SQL: err towards care
            $highest = max($highest, $rank === false ? count(CheckRecord::SENSITIVITIES) - 1 : $rank);
        }
        return [
            SummaryTable::HELD => $records === [] ? '0' : '1',
            SummaryTable::MODELS => mb_strcut(implode(', ', array_keys($models)), 0, self::LONGEST_VALUE, 'UTF-8'),
            SummaryTable::HIGHEST_SENSITIVITY => $highest < 0 ? ''
                : (string)($this->options[CheckRecord::SENSITIVITIES[$highest]] ?? ''),
        ];
    }
}
