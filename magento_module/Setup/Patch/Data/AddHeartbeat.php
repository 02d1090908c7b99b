<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup\Patch\Data;

use Magento\Framework\Setup\ModuleDataSetupInterface;
use Magento\Framework\Setup\Patch\DataPatchInterface;

/**
 * The one row in which the relay shows that it is alive: its account may change that row and add none.
 */
class AddHeartbeat implements DataPatchInterface
{
    private ModuleDataSetupInterface $setup;

    public function __construct(ModuleDataSetupInterface $setup)
    {
        $this->setup = $setup;
    }

    /**
     * @inheritdoc
     */
    public function apply(): self
    {
        $this->setup->getConnection()->insertOnDuplicate(
            $this->setup->getTable('tocsin_heartbeat'),
            // No relay yet, and no beat since the epoch.
            ['id' => 1, 'relay' => '', 'beat_at' => '1970-01-01 00:00:00'],
            ['id']
        );

        return $this;
    }

    /**
     * @inheritdoc
     */
    public static function getDependencies(): array
    {
        return [];
    }

    /**
     * @inheritdoc
     */
    public function getAliases(): array
    {
        return [];
    }
}
