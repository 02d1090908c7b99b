<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup;

use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\SchemaSetupInterface;
use Magento\Framework\Setup\UninstallInterface;
use Tocsin\BreachNotification\Model\RemoveTraces;

/**
 * What `module:uninstall --remove-data` runs: the same as `tocsin:uninstall`.
 */
class Uninstall implements UninstallInterface
{
    /**
     * @param RemoveTraces $removeTraces
     */
    public function __construct(private readonly RemoveTraces $removeTraces)
    {
    }

    /**
     * @inheritDoc
     */
    public function uninstall(SchemaSetupInterface $setup, ModuleContextInterface $context)
    {
        $this->removeTraces->execute();
    }
}
