<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Mview\ViewInterface;

/**
 * Whether changes are seen, and how many of them wait for the relay. Reads only; every number is of this moment.
 */
class GetCaptureStatus
{
    private const REMEDY = 'Run bin/magento tocsin:capture:enable, then tocsin relay backfill and, for what was deleted,'
        . ' tocsin relay verify --repair.';

    private const FEW_NUMBERS = 1000000000;

    /**
     * @param ListViews $listViews
     * @param FindTriggers $findTriggers
     * @param ResourceConnection $resource
     */
    public function __construct(
        private readonly ListViews $listViews,
        private readonly FindTriggers $findTriggers,
        private readonly ResourceConnection $resource
    ) {
    }

    /**
     * Return views, provenance, notices, relay and the problems found, each a sentence with what to do.
     *
     * Times are UTC. `oldest_change_at` is null for a changelog without rows, or without the column that says.
     *
     * @return array{
     *     views: array<int, array<string, mixed>>,
     *     provenance: array<int, array<string, mixed>>,
     *     notices: array<string, int>,
     *     relay: array<string, string|null>,
     *     problems: string[]
     * }
     */
    public function execute(): array
    {
        $triggers = $this->findTriggers->execute();
        $status = ['views' => [], 'provenance' => [], 'notices' => [], 'relay' => [], 'problems' => []];
        foreach ($this->listViews->execute() as $id => $view) {
            $found = $this->ofView($view, $triggers);
            $status['views'][] = ['view' => $id] + $found;
            if ($found['mode'] !== 'enabled') {
                $status['problems'][] = "$id is off: its changes are not seen. " . self::REMEDY;
            } elseif ($found['broken']) {
                $status['problems'][] = "$id lacks " . implode(', ', $found['broken']) . '. ' . self::REMEDY;
            }
            if ($found['numbers_left'] !== null && $found['numbers_left'] < self::FEW_NUMBERS) {
                $status['problems'][] = "{$found['changelog']} has {$found['numbers_left']} numbers left for changes; after"
                    . ' the last one none is seen. Run bin/magento tocsin:capture:enable, which gives it more.';
            }
        }
        $status['provenance'] = $this->provenance();
        $status['notices'] = $this->notices();
        $status['relay'] = $this->relay();
        return $status;
    }

    /**
     * Return one view's state.
     *
     * @param ViewInterface $view
     * @param array<string, array{table: string, event: string, body: string}> $triggers
     * @return array<string, mixed>
     */
    private function ofView(ViewInterface $view, array $triggers): array
    {
        $connection = $this->resource->getConnection();
        $changelog = $this->resource->getTableName($view->getChangelog()->getName());
        $broken = [];
        $expected = $good = 0;
        foreach ($view->getSubscriptions() as $config) {
            foreach ($view->initSubscriptionInstance($config)->create(false)->getTriggers() as $trigger) {
                $expected++;
                if (str_contains($triggers[$trigger->getName()]['body'] ?? '', $trigger->getStatements()[0])) {
                    $good++;
                } else {
                    $broken[] = "trigger {$trigger->getName()}";
                }
            }
        }
        $backlog = $oldest = null;
        if ($connection->isTableExists($changelog)) {
            $backlog = (int)$connection->fetchOne("SELECT COUNT(*) FROM $changelog");
            if ($connection->tableColumnExists($changelog, SubscribeViews::CHANGED_AT)) {
                $oldest = $connection->fetchOne("SELECT changed_at FROM $changelog ORDER BY version_id LIMIT 1") ?: null;
            }
        } else {
            $broken[] = "changelog $changelog";
        }
        return [
            'mode' => $view->isEnabled() ? 'enabled' : 'disabled',
            'changelog' => $changelog,
            'triggers' => $good,
            'triggers_expected' => $expected,
            'backlog' => $backlog,
            'oldest_change_at' => $oldest,
            'broken' => $broken,
            'numbers_left' => $this->numbersLeft($changelog),
        ];
    }

    /**
     * Return how many changes the changelog can still number, null where they do not run out.
     *
     * @param string $changelog
     * @return int|null
     */
    private function numbersLeft(string $changelog): ?int
    {
        $next = $this->resource->getConnection()->fetchOne(
            'SELECT t.AUTO_INCREMENT FROM information_schema.TABLES t JOIN information_schema.COLUMNS c'
            . ' ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME'
            . " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME = ? AND c.COLUMN_NAME = 'version_id'"
            . " AND c.DATA_TYPE = 'int'",
            [$changelog]
        );
        return $next ? max(0, SubscribeViews::LAST_INT + 1 - (int)$next) : null;
    }

    /**
     * Return the number of records by model and version, and how many of them are retired.
     *
     * @return array<int, array<string, mixed>>
     */
    private function provenance(): array
    {
        $table = $this->resource->getTableName('tocsin_provenance');
        $rows = $this->resource->getConnection()->fetchAll(
            "SELECT model_id, model_version, COUNT(*) AS records, COUNT(deleted_at) AS retired FROM $table"
            . ' GROUP BY model_id, model_version ORDER BY model_id, model_version'
        );
        return array_map(
            static fn (array $row): array => ['records' => (int)$row['records'], 'retired' => (int)$row['retired']] + $row,
            $rows
        );
    }

    /**
     * Return how many notices are open, read and withdrawn.
     *
     * @return array<string, int>
     */
    private function notices(): array
    {
        $table = $this->resource->getTableName('tocsin_account_notice');
        $rows = $this->resource->getConnection()->fetchAll(
            'SELECT COALESCE(SUM(read_at IS NULL AND withdrawn_at IS NULL), 0) AS `open`, COUNT(read_at) AS `read`,'
            . " COUNT(withdrawn_at) AS withdrawn FROM $table"
        );
        return array_map('intval', $rows[0]);
    }

    /**
     * Return who relayed last, and when it was last alive.
     *
     * @return array<string, string|null>
     */
    private function relay(): array
    {
        $table = $this->resource->getTableName('tocsin_heartbeat');
        $rows = $this->resource->getConnection()->fetchAll(
            "SELECT relay AS name, beat_at FROM $table WHERE relay <> ''"
        );
        return $rows[0] ?? ['name' => null, 'beat_at' => null];
    }
}
